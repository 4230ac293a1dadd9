"""Samples from folders of images and from sample specs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.core.files import data_folder
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.samples import Samples, load_spec, open_samples
from edgekit.core.samples import images as image_module
from edgekit.errors import UsageError

pillow: Any = import_module("PIL.Image") if find_spec("PIL") else None


@pytest.fixture(autouse=True)
def pillow_is_installed(need):
    need("PIL")


PLAIN = """
schema = 1
name = "plain"
kind = "images"
[image]
resize = [4, 6]
resample = "nearest"
"""


def signature(*shape: int, dtype: str = "float32") -> Signature:
    return Signature(inputs=(TensorSpec(name="input", dtype=dtype, shape=(1, *shape)),), outputs=())


CHW = signature(3, 4, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 1, 2, 10 of one colour each (red = 10 times the number), 4 high and 6 wide."""
    place = tmp_path / "pictures"
    place.mkdir()
    for number in (10, 1, 2):
        pillow.new("RGB", (6, 4), (10 * number, 20, 30)).save(place / f"p{number}.png")
    return place


def spec(tmp_path: Path, text: str = PLAIN, name: str = "spec.toml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def read(samples: Samples) -> np.ndarray:
    return np.concatenate([b.inputs["input"] for b in samples.batches(2)])


def labels(samples: Samples) -> list[Any]:
    return np.concatenate([b.labels for b in samples.batches(2)]).tolist()  # type: ignore[misc]


def refusal(source: DataSource, model: Signature = CHW, **options: bool) -> str:
    with pytest.raises(UsageError) as caught:
        list(open_samples(source, model, **options).batches(2))
    return str(caught.value)


def test_images_come_in_natural_order_as_nchw_float32(folder: Path, tmp_path: Path) -> None:
    values = read(open_samples(DataSource(path=str(folder), preprocessing=spec(tmp_path)), CHW))
    assert (values.shape, values.dtype) == ((3, 3, 4, 6), np.float32)
    assert values[:, 0, 0, 0].tolist() == [10, 20, 100]
    assert values[0, :, 0, 0].tolist() == [10, 20, 30]


def test_nhwc_bgr_scale_mean_and_std_are_exact(folder: Path, tmp_path: Path) -> None:
    text = PLAIN + 'color = "bgr"\nlayout = "nhwc"\nscale = 0.5\nmean = [1, 2, 3]\nstd = [2.0, 4.0, 8.0]\n'
    samples = open_samples(
        DataSource(path=str(folder), preprocessing=spec(tmp_path, text)), signature(4, 6, 3)
    )
    expected = (np.array([30, 20, 10], np.float32) * 0.5 - [1, 2, 3]) / [2, 4, 8]
    np.testing.assert_array_equal(read(samples)[0, 0, 0], expected.astype(np.float32))


def test_gray_images_have_one_channel(folder: Path, tmp_path: Path) -> None:
    source = DataSource(path=str(folder), preprocessing=spec(tmp_path, PLAIN + 'color = "gray"\n'))
    expected = np.asarray(pillow.open(folder / "p1.png").convert("L"))
    np.testing.assert_array_equal(read(open_samples(source, signature(1, 4, 6)))[0, 0], expected)


def test_uint8_hands_out_the_pixels(folder: Path, tmp_path: Path) -> None:
    source = DataSource(path=str(folder), preprocessing=spec(tmp_path, PLAIN + 'dtype = "uint8"\n'))
    values = read(open_samples(source, signature(3, 4, 6, dtype="uint8")))
    assert values.dtype == np.uint8
    assert values[2, 0, 0, 0] == 100


def test_short_side_and_centre_crop_keep_the_middle(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    stripes = np.zeros((8, 16, 3), np.uint8)
    stripes[:, :] = np.arange(16, dtype=np.uint8)[None, :, None]
    pillow.fromarray(stripes).save(tmp_path / "in" / "a.png")
    text = PLAIN.replace("resize = [4, 6]", "resize = 4\ncenter_crop = 4")
    source = DataSource(path=str(tmp_path / "in"), preprocessing=spec(tmp_path, text))
    values = read(open_samples(source, signature(3, 4, 4)))
    # 16 x 8 becomes 8 x 4 (each pixel from the middle of two), of which columns 2 to 5 remain
    np.testing.assert_array_equal(values[0, 0, 0], [5, 7, 9, 11])


def test_a_crop_larger_than_the_picture_is_refused(folder: Path, tmp_path: Path) -> None:
    text = PLAIN.replace("resize = [4, 6]", "center_crop = [5, 6]")
    text = refusal(DataSource(path=str(folder), preprocessing=spec(tmp_path, text)))
    assert "4 x 6 pixels are fewer than image.center_crop 5 x 6" in text


def test_exif_orientation_is_obeyed_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture = pillow.new("RGB", (6, 4))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "in" / "a.jpg", exif=exif)
    bare = PLAIN.replace("resize = [4, 6]", "")
    stored = DataSource(path=str(tmp_path / "in"), preprocessing=spec(tmp_path, bare))
    assert open_samples(stored, signature(3, 4, 6)).count == 1
    turned = spec(tmp_path, bare + 'orientation = "exif"\n', "turned.toml")
    assert open_samples(DataSource(path=stored.path, preprocessing=turned), signature(3, 6, 4)).count == 1


def test_labels_come_from_the_csv_by_file_name(folder: Path, tmp_path: Path) -> None:
    table = "file,class_index,wnid\np10.png,7,c\np1.png,5,a\np2.png,6,b\nother.png,1,z\n"
    (folder / "labels.csv").write_text(table)
    source = DataSource(path=str(folder), preprocessing=spec(tmp_path), seed=0)
    samples = open_samples(source, CHW, need_labels=True)
    order = np.random.default_rng(0).permutation(3)
    assert labels(samples) == np.array([5, 6, 7])[order].tolist()


def test_labels_come_from_sub_folders_sorted_by_name(tmp_path: Path) -> None:
    for name in ("dog", "cat", "Ant"):
        (tmp_path / "in" / name).mkdir(parents=True)
        pillow.new("RGB", (6, 4)).save(tmp_path / "in" / name / "1.PNG")
    source = DataSource(path=str(tmp_path / "in"), preprocessing=spec(tmp_path))
    samples = open_samples(source, CHW, need_labels=True)
    assert [samples.rows["input"].describe(i) for i in range(3)] == ["Ant/1.PNG", "cat/1.PNG", "dog/1.PNG"]
    assert labels(samples) == [0, 1, 2]
    assert not open_samples(source, CHW).has_labels


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name,class_index\np1.png,1\n", "no column 'file'; the columns are name, class_index"),
        ("file,class_index\np1.png,1\np2.png,2\n", "no label for 'p10.png'"),
        ("file,class_index\np1.png,cat\np2.png,2\np10.png,3\n", "line 2: class_index is 'cat'"),
        ("file,class_index\np1.png\np2.png,2\np10.png,3\n", "line 2: class_index is None"),
        ("file,class_index\np1.png,1\np1.png,2\np2.png,2\np10.png,3\n", "'p1.png' has two different labels"),
        ("", "the columns are none"),
    ],
)
def test_a_bad_label_table_is_refused(folder: Path, tmp_path: Path, table: str, said: str) -> None:
    (folder / "labels.csv").write_text(table)
    source = DataSource(path=str(folder), preprocessing=spec(tmp_path))
    assert said in refusal(source, need_labels=True)


def test_images_without_labels_are_refused_when_the_metric_needs_them(folder: Path, tmp_path: Path) -> None:
    source = DataSource(path=str(folder), preprocessing=spec(tmp_path))
    text = refusal(source, need_labels=True)
    assert "the images have no labels" in text
    assert "labels.csv" in text


def test_images_without_preprocessing_are_refused(folder: Path) -> None:
    assert "needs a preprocessing spec" in refusal(DataSource(path=str(folder)))


def test_images_prepared_for_another_layout_are_refused_with_the_hint(folder: Path, tmp_path: Path) -> None:
    text = refusal(DataSource(path=str(folder), preprocessing=spec(tmp_path)), signature(4, 6, 3))
    assert "has shape [3, 3, 4, 6], expected [n, 4, 6, 3]; it looks like NCHW" in text


def test_images_of_different_sizes_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    pillow.new("RGB", (8, 4)).save(folder / "wide.png")
    text = PLAIN.replace("resize = [4, 6]", "")
    assert "wide.png: becomes [3, 4, 8]" in refusal(
        DataSource(path=str(folder), preprocessing=spec(tmp_path, text))
    )


def test_every_bad_image_of_a_batch_is_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "p2.png").read_bytes()
    (folder / "p2.png").write_bytes(whole[: len(whole) - 30])
    (folder / "p3.png").write_bytes(b"no picture")
    source = DataSource(path=str(folder), preprocessing=spec(tmp_path))
    with pytest.raises(UsageError) as caught:
        list(open_samples(source, CHW).batches(4))
    assert [p.split(":")[0] for p in caught.value.problems] == ["p2.png", "p3.png"]


def test_a_truncated_jpeg_is_refused_not_filled_with_gray(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    pillow.fromarray(noise).save(tmp_path / "in" / "a.jpg")
    data = (tmp_path / "in" / "a.jpg").read_bytes()
    (tmp_path / "in" / "a.jpg").write_bytes(data[: len(data) // 2])
    source = DataSource(path=str(tmp_path / "in"), preprocessing=spec(tmp_path))
    assert "not a readable image" in refusal(source)


def test_see_through_and_deep_images_are_refused_and_opaque_alpha_is_not(tmp_path: Path) -> None:
    def one(name: str, image: Any) -> DataSource:
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png")
        return DataSource(path=str(tmp_path / name), preprocessing=spec(tmp_path))

    assert "see-through" in refusal(one("clear", pillow.new("RGBA", (6, 4), (1, 2, 3, 100))))
    assert "at most 8 bits" in refusal(one("deep", pillow.fromarray(np.full((4, 6), 4000, np.uint16))))
    assert read(open_samples(one("opaque", pillow.new("RGBA", (6, 4), (1, 2, 3, 255))), CHW))[0, 2, 0, 0] == 3


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.gif").write_bytes(b"x")
    source = DataSource(path=str(tmp_path / "in"), preprocessing=spec(tmp_path))
    assert "no image (1 other files)" in refusal(source)


def test_files_passed_over_are_noted(folder: Path, tmp_path: Path) -> None:
    (folder / "film.mp4").write_bytes(b"x")
    (folder / ".hidden.png").write_bytes(b"x")
    samples = open_samples(DataSource(path=str(folder), preprocessing=spec(tmp_path)), CHW)
    assert samples.count == 3
    assert samples.notes == ("1 file(s) of the folder are no images that edgekit reads",)


def test_images_are_decoded_by_the_batch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real = image_module.decode_image

    def counting(path: Path, options: Any) -> Any:
        decoded.append(path.name)
        return real(path, options)

    samples = open_samples(DataSource(path=str(folder), preprocessing=spec(tmp_path)), CHW)
    monkeypatch.setattr(image_module, "decode_image", counting)
    stream: Iterator[Any] = samples.batches(1)
    next(stream)
    assert decoded == ["p1.png"]


def test_digest_of_images_follows_pixels_and_preparation(folder: Path, tmp_path: Path) -> None:
    source = DataSource(path=str(folder), preprocessing=spec(tmp_path))
    base = open_samples(source, CHW).digest
    assert open_samples(source, CHW).digest == base
    other = DataSource(path=str(folder), preprocessing=spec(tmp_path, PLAIN + "mean = 1.0\n", "b.toml"))
    changed = {open_samples(other, CHW).digest, open_samples(source, CHW, need_labels=False).digest}
    pillow.new("RGB", (6, 4), (11, 20, 30)).save(folder / "p1.png")
    assert len({base, *changed, open_samples(source, CHW).digest}) == 3


def test_a_spec_finds_its_data_beside_itself_and_selections_nest(folder: Path, tmp_path: Path) -> None:
    text = PLAIN.replace('kind = "images"', 'kind = "images"\npath = "pictures"\nskip = 1')
    path = spec(tmp_path, text)
    assert read(open_samples(DataSource(path=path), CHW))[:, 0, 0, 0].tolist() == [20, 100]
    assert read(open_samples(DataSource(path=path, skip=1), CHW))[:, 0, 0, 0].tolist() == [100]
    assert "the source has 2" in refusal(DataSource(path=path, count=3))


def test_an_array_spec_scales_bytes_and_reshapes(tmp_path: Path) -> None:
    pixels = np.arange(2 * 784, dtype=np.int64).reshape(2, 784).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", x=pixels, y=[3, 4])
    source = DataSource(path=str(tmp_path / "digits.npz"), preprocessing="mnist")
    samples = open_samples(source, signature(1, 28, 28), need_labels=True)
    np.testing.assert_allclose(read(samples).reshape(2, 784), pixels / 255, rtol=2e-7)
    assert labels(samples) == [3, 4]


def test_a_reshape_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input=np.zeros((2, 100), np.uint8))
    source = DataSource(path=str(tmp_path / "d.npz"), preprocessing="mnist")
    assert "array.reshape [1, 28, 28] does not fit samples of [100]" in refusal(source, signature(1, 28, 28))


def test_a_spec_of_preprocessing_alone_is_no_data() -> None:
    assert "not where they lie" in refusal(DataSource(path="imagenet-tf"))


def test_specs_of_the_wrong_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "'mnist' prepares arrays" in refusal(DataSource(path=str(folder), preprocessing="mnist"))
    np.savez(tmp_path / "d.npz", input=np.zeros((2, 3, 4, 6), np.float32))
    assert "prepares images" in refusal(DataSource(path=str(tmp_path / "d.npz"), preprocessing="imagenet-tf"))
    both = DataSource(path=spec(tmp_path), preprocessing="imagenet-tf")
    assert "both given" in refusal(both)


def test_an_unknown_spec_names_its_neighbour() -> None:
    with pytest.raises(UsageError, match="did you mean 'imagenet-tf'"):
        load_spec("imagenet-tg")


def test_an_unknown_key_names_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'image\.resise'; did you mean 'resize'\?"):
        load_spec(spec(tmp_path, PLAIN.replace("resize", "resise")))


def test_a_spec_that_contradicts_itself_tells_every_problem(tmp_path: Path) -> None:
    text = PLAIN + 'color = "gray"\nmean = [1.0, 2.0]\nstd = 0.0\ncenter_crop = [0, 4]\ndtype = "uint8"\n'
    with pytest.raises(UsageError) as caught:
        load_spec(spec(tmp_path, text))
    for part in ("mean: got 2 values", "std: 0", "center_crop: got (0, 4)", "'uint8' hands out the pixels"):
        assert part in str(caught.value)


def test_every_shipped_spec_decodes_and_is_named_after_its_file() -> None:
    paths = sorted(data_folder("calibration").glob("*.toml"))
    assert {"imagenet-tf", "mnist"} <= {p.stem for p in paths}
    for path in paths:
        assert load_spec(path.stem).name == path.stem


def test_the_efficientnet_spec_is_what_the_network_was_trained_with(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pillow.new("RGB", (400, 300), (127, 255, 0)).save(tmp_path / "in" / "a.jpg", quality=100, subsampling=0)
    source = DataSource(path=str(tmp_path / "in"), preprocessing="imagenet-tf")
    values = read(open_samples(source, signature(3, 224, 224)))
    np.testing.assert_allclose(values[0, :, 112, 112], [0.0, 1.0, -127 / 128], atol=2.5 / 128)

"""Samples from .npz, .npy and arrays in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.core.codec import encode
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.samples import Samples, open_samples, samples_from_arrays, samples_from_iterable
from edgekit.errors import UsageError

IMAGE = Signature(inputs=(TensorSpec(name="input", dtype="float32", shape=(1, 3, 4, 5)),), outputs=())
TWO = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int32", shape=("batch", 6)),
        TensorSpec(name="mask", dtype="float32", shape=("batch", 6)),
    ),
    outputs=(),
)


def images(n: int = 7) -> np.ndarray:
    return np.arange(n * 60, dtype=np.float32).reshape(n, 3, 4, 5)


def save(folder: Path, **arrays: object) -> DataSource:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return DataSource(path=str(folder / "data.npz"))


def read(samples: Samples, size: int = 2, name: str = "input") -> np.ndarray:
    return np.concatenate([batch.inputs[name] for batch in samples.batches(size)])


def refusal(source: DataSource, signature: Signature = IMAGE, **options: bool) -> str:
    with pytest.raises(UsageError) as caught:
        list(open_samples(source, signature, **options).batches(2))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz_gives_back_its_arrays_in_order(tmp_path: Path, writer) -> None:  # type: ignore[no-untyped-def]
    writer(tmp_path / "d.npz", input=images(), labels=np.arange(7))
    samples = open_samples(DataSource(path=str(tmp_path / "d.npz")), IMAGE, need_labels=True)
    assert (samples.count, samples.names, samples.has_labels) == (7, ("input",), True)
    batches = list(samples.batches(3))
    assert [len(b) for b in batches] == [3, 3, 1]
    np.testing.assert_array_equal(read(samples), images())
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), np.arange(7))


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_gives_back_its_array_in_either_memory_order(tmp_path: Path, order: str) -> None:
    np.save(tmp_path / "d.npy", np.asarray(images(), order=order))  # type: ignore[call-overload]
    samples = open_samples(DataSource(path=str(tmp_path / "d.npy")), IMAGE)
    np.testing.assert_array_equal(read(samples), images())
    assert not samples.has_labels


def test_selection_shuffles_by_the_seed_then_skips_then_takes(tmp_path: Path) -> None:
    source = save(tmp_path, input=images(), labels=np.arange(7))
    chosen = DataSource(path=source.path, seed=3, skip=2, count=4)
    samples = open_samples(chosen, IMAGE)
    expected = np.random.default_rng(3).permutation(7)[2:6]
    np.testing.assert_array_equal(read(samples), images()[expected])
    np.testing.assert_array_equal(np.concatenate([b.labels for b in samples.batches(3)]), expected)
    assert "seed 3" in samples.spec


def test_the_same_source_gives_the_same_samples_in_another_process(tmp_path: Path) -> None:
    chosen = DataSource(path=save(tmp_path, input=images()).path, seed=1, count=5)
    code = (
        "from edgekit.core.codec import decode; from edgekit.core.recipe import DataSource\n"
        "from edgekit.core.model import Signature\nfrom edgekit.core.samples import open_samples\n"
        "import json, sys; s, m = json.loads(sys.argv[1])\n"
        "print(open_samples(decode(DataSource, s, where=''), decode(Signature, m, where='')).digest)"
    )
    command = [sys.executable, "-c", code, json.dumps([encode(chosen), encode(IMAGE)])]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == open_samples(chosen, IMAGE).digest


def test_digest_follows_content_selection_and_labels_and_nothing_else(tmp_path: Path) -> None:
    def digest(folder: str, count: int = 0, compress: bool = False, **arrays: np.ndarray) -> str:
        (tmp_path / folder).mkdir()
        writer = np.savez_compressed if compress else np.savez
        writer(tmp_path / folder / "d.npz", **arrays)
        return open_samples(DataSource(path=str(tmp_path / folder / "d.npz"), count=count), IMAGE).digest

    base = digest("a", input=images())
    changed = images()
    changed[6, 2, 3, 4] += 1
    assert digest("b", input=images()) == base
    assert digest("c", compress=True, input=images()) == base
    others = {
        digest("d", input=changed),
        digest("e", count=6, input=images()),
        digest("f", input=images(), labels=np.arange(7)),
        digest("g", input=images(), labels=np.arange(7)[::-1].copy()),
    }
    assert len(others | {base}) == 5


def test_a_stored_array_is_read_by_the_row_and_never_whole(tmp_path: Path) -> None:
    code = (
        "import sys, resource, numpy as np; from edgekit.core.samples import open_samples\n"
        "from edgekit.core.recipe import DataSource; from edgekit.core.model import *\n"
        "sig = Signature(inputs=(TensorSpec(name='x', dtype='float32', shape=(1, 250000)),), outputs=())\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "samples = open_samples(DataSource(path=sys.argv[1]), sig); samples.digest\n"
        "assert sum(len(b) for b in samples.batches(1)) == samples.count\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    np.savez(tmp_path / "d.npz", x=np.zeros((150, 250000), np.float32))  # 150 MB
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d.npz")], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) < 60_000  # KiB; a digest piece is 16 MB


def test_float64_is_cast_to_float32(tmp_path: Path) -> None:
    samples = open_samples(save(tmp_path, input=images().astype(np.float64)), IMAGE)
    assert read(samples).dtype == np.float32
    np.testing.assert_array_equal(read(samples), images())


def test_big_endian_data_keeps_its_values(tmp_path: Path) -> None:
    samples = open_samples(save(tmp_path, input=images().astype(">f4")), IMAGE)
    np.testing.assert_array_equal(read(samples), images())
    assert samples.digest == open_samples(save(tmp_path, input=images()), IMAGE).digest


def test_int64_is_cast_to_int32_only_when_its_values_fit(tmp_path: Path) -> None:
    ids, mask = np.arange(18, dtype=np.int64).reshape(3, 6), np.ones((3, 6), np.float32)
    samples = open_samples(save(tmp_path, ids=ids, mask=mask), TWO)
    assert read(samples, name="ids").dtype == np.int32
    ids[2, 4] = 2**31
    text = refusal(save(tmp_path, ids=ids, mask=mask), TWO)
    assert "'ids' holds 2147483648 in sample 2" in text


def test_integers_for_a_float_input_are_refused_with_what_to_do(tmp_path: Path) -> None:
    text = refusal(save(tmp_path, input=images().astype(np.uint8)))
    assert "'input' has dtype uint8, expected float32" in text
    assert "[array]" in text


def test_floats_for_an_integer_input_are_refused(tmp_path: Path) -> None:
    text = refusal(save(tmp_path, ids=np.ones((3, 6), np.float32), mask=np.ones((3, 6), np.float32)), TWO)
    assert "'ids' has dtype float32, expected int32" in text


def test_a_float_that_overflows_half_precision_is_refused(tmp_path: Path) -> None:
    half = Signature(inputs=(TensorSpec(name="input", dtype="float16", shape=(1, 2)),), outputs=())
    text = refusal(save(tmp_path, input=np.array([[1, 2], [3, 1e6]], np.float32)), half)
    assert "infinity" in text
    assert "sample 1" in text


def test_wrong_names_name_the_nearest_and_the_missing_all_at_once(tmp_path: Path) -> None:
    text = refusal(save(tmp_path, idz=np.ones((3, 6), np.int32), extra=np.ones(3)), TWO)
    assert "'idz' is no input of the model; did you mean 'ids'?" in text
    assert "'extra' is no input of the model" in text
    assert "no array for the input 'mask'" in text


def test_the_only_array_is_taken_for_the_only_input_and_that_is_noted(tmp_path: Path) -> None:
    samples = open_samples(save(tmp_path, images=images(), y=np.arange(7)), IMAGE, need_labels=True)
    assert samples.count == 7
    assert any("'images'" in note for note in samples.notes)


def test_an_input_called_like_a_label_is_an_input(tmp_path: Path) -> None:
    signature = Signature(inputs=(TensorSpec(name="y", dtype="float32", shape=(1, 2)),), outputs=())
    samples = open_samples(save(tmp_path, y=np.ones((4, 2), np.float32), labels=np.arange(4)), signature)
    assert (samples.names, samples.has_labels) == (("y",), True)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((7, 4, 5, 3), "looks like NHWC, the model wants NCHW"),
        ((3, 4, 5), "array[None]"),
        ((7, 1, 3, 4, 5), "squeeze(1)"),
        ((7, 60), "reshape"),
        ((7, 3, 9, 9), "expected [n, 3, 4, 5]"),
    ],
)
def test_a_wrong_shape_says_got_expected_and_what_it_looks_like(
    tmp_path: Path, shape: tuple[int, ...], hint: str
) -> None:
    text = refusal(save(tmp_path, input=np.zeros(shape, np.float32)))
    assert f"has shape {list(shape)}, expected [n, 3, 4, 5]" in text
    assert hint in text


def test_a_missing_channel_axis_is_named(tmp_path: Path) -> None:
    gray = Signature(inputs=(TensorSpec(name="input", dtype="float32", shape=(1, 1, 4, 5)),), outputs=())
    source = save(tmp_path, input=np.zeros((7, 4, 5), np.float32))
    assert "numpy.expand_dims(array, 1)" in refusal(source, gray)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_nan_and_infinity_name_array_and_sample_even_in_the_last_batch(
    tmp_path: Path, value: float, word: str
) -> None:
    bad = images()
    bad[6, 1, 2, 3] = value
    text = refusal(save(tmp_path, input=bad))
    assert f"'input' holds {word}" in text
    assert "sample 6" in text


def test_nan_is_found_under_its_own_number_when_samples_are_shuffled(tmp_path: Path) -> None:
    bad = images()
    bad[4] = np.nan
    source = save(tmp_path, input=bad)
    assert "sample 4" in refusal(DataSource(path=source.path, seed=0))


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    arrays = {"ids": np.ones((3, 7), np.float32), "mask": np.ones((4, 6), np.float32), "labels": np.ones(9)}
    text = refusal(save(tmp_path, **arrays), TWO, need_labels=True)
    for part in ("'ids' has shape", "'ids' has dtype", "different numbers", "9 labels for 3 samples"):
        assert part in text


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    assert "empty" in refusal(save(tmp_path, input=images(0)))


@pytest.mark.parametrize("choice", [{"count": 8}, {"skip": 7}, {"skip": 3, "count": 5}])
def test_asking_for_too_many_says_how_many_there_are(tmp_path: Path, choice: dict[str, int]) -> None:
    source = save(tmp_path, input=images())
    assert "the source has 7" in refusal(DataSource(path=source.path, **choice))


def test_a_selection_out_of_range_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path, input=images())
    text = refusal(DataSource(path=source.path, count=-1, skip=-2, seed=-3))
    assert all(name in text for name in ("count: got -1", "skip: got -2", "seed: got -3"))


def test_missing_labels_are_an_error_only_when_needed(tmp_path: Path) -> None:
    source = save(tmp_path, input=images())
    assert open_samples(source, IMAGE).count == 7
    assert "needs labels" in refusal(source, need_labels=True)


def test_label_count_must_be_the_sample_count(tmp_path: Path) -> None:
    assert "5 labels for 7 samples" in refusal(save(tmp_path, input=images(), labels=np.arange(5)))


def test_two_label_arrays_are_refused(tmp_path: Path) -> None:
    text = refusal(save(tmp_path, input=images(), labels=np.arange(7), y=np.arange(7)))
    assert "'labels' and 'y' both look like labels" in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nothing.npz: no such file" in refusal(DataSource(path=str(tmp_path / "nothing.npz")))


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path, input=images())
    with zipfile.ZipFile(source.path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("input.npy", archive.read("input.npy"))
    assert "two arrays are named 'input'" in refusal(source)


def test_an_unknown_ending_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.mat").write_text("1,2")
    assert "'.mat'" in refusal(DataSource(path=str(tmp_path / "d.mat")))


@pytest.mark.parametrize("keep", [0, 3, 40, 300, -1])
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_a_truncated_file_is_refused(tmp_path: Path, ending: str, keep: int) -> None:
    path = tmp_path / f"d.{ending}"
    (np.savez(path, input=images()) if ending == "npz" else np.save(path, images()))
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in refusal(DataSource(path=str(path)))


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_a_flipped_byte_in_an_npz_is_found(tmp_path: Path, writer) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "d.npz"
    writer(path, input=np.random.default_rng(0).normal(size=(7, 3, 4, 5)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "array 'input' is damaged" in refusal(DataSource(path=str(path)))


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_garbage_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"d.{ending}"
    path.write_bytes(bytes(range(256)) * 8)
    assert f"not a readable .{ending} file" in refusal(DataSource(path=str(path)))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (marker,))  # type: ignore[return-value]

    array = np.array([Evil(), 1], dtype=object)
    np.savez(tmp_path / "d.npz", input=array, allow_pickle=True)
    np.save(tmp_path / "d.npy", array, allow_pickle=True)
    for name in ("d.npz", "d.npy"):
        assert "pickle" in refusal(DataSource(path=str(tmp_path / name)))
    assert not marker.exists()


def test_text_arrays_are_refused(tmp_path: Path) -> None:
    assert "numbers are needed" in refusal(save(tmp_path, input=np.array(["a", "b"])))


def test_an_input_without_batch_axis_is_refused_by_name(tmp_path: Path) -> None:
    signature = Signature(
        inputs=(*IMAGE.inputs, TensorSpec(name="rate", dtype="int64", shape=())), outputs=()
    )
    text = refusal(save(tmp_path, input=images(), rate=np.array(16000)), signature)
    assert "rate: int64[]" in text
    assert "no batch axis" in text


def test_inputs_with_different_first_axes_are_refused(tmp_path: Path) -> None:
    state = TensorSpec(name="state", dtype="float32", shape=(2, 1, 64))
    signature = Signature(inputs=(*IMAGE.inputs, state), outputs=())
    assert "first axes of the inputs differ" in refusal(save(tmp_path, input=images()), signature)


def test_an_input_without_batch_axis_is_given_whole_sample_by_sample(tmp_path: Path) -> None:
    state = TensorSpec(name="state", dtype="float32", shape=(2, 1, 64))
    rate = TensorSpec(name="rate", dtype="int64", shape=())
    signature = Signature(inputs=(state, *IMAGE.inputs, rate), outputs=())
    states = np.arange(3 * 128, dtype=np.float32).reshape(3, 2, 1, 64)
    source = save(tmp_path, input=images()[:3], state=states, rate=np.full(3, 16000))
    samples = open_samples(source, signature)
    batches = list(samples.batches(1))
    assert [len(batch) for batch in batches] == [1, 1, 1]
    assert np.array_equal(batches[2].inputs["state"], states[2])
    assert batches[2].inputs["rate"].shape == ()
    with pytest.raises(UsageError, match="no batch axis"):
        next(samples.batches(2))


def test_an_npy_is_refused_for_a_model_of_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", images())
    assert ".npz" in refusal(DataSource(path=str(tmp_path / "d.npy")), TWO)


def test_arrays_in_memory_are_checked_like_files() -> None:
    samples = samples_from_arrays({"input": images()}, labels=np.arange(7), signature=IMAGE)
    np.testing.assert_array_equal(read(samples), images())
    with pytest.raises(UsageError, match="expected \\[n, 3, 4, 5\\]"):
        samples_from_arrays({"input": images()[:, :2]}, signature=IMAGE)
    with pytest.raises(UsageError, match="'inputs'"):
        samples_from_arrays({"inputs": images()}, signature=IMAGE)


def test_an_iterable_of_batches_becomes_samples() -> None:
    parts = [{"input": images()[:4], "t": [0, 1, 2, 3]}, {"input": images()[4:], "t": [4, 5, 6]}]
    samples = samples_from_iterable(iter(parts), labels="t", signature=IMAGE)
    np.testing.assert_array_equal(read(samples), images())
    assert samples.digest == samples_from_arrays({"input": images()}, np.arange(7), signature=IMAGE).digest


def test_an_iterable_of_unlike_batches_is_refused() -> None:
    with pytest.raises(UsageError, match="batch 1"):
        samples_from_iterable([{"input": images()}, {"inputs": images()}])
    with pytest.raises(UsageError, match="empty"):
        samples_from_iterable([])


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="batch size"):
        next(samples_from_arrays({"input": images()}).batches(0))

"""Samples from folders of arrays, from iterables, and what a digest in a spec holds fast."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.samples import open_samples
from edgekit.core.samples.spool import spool
from edgekit.errors import UsageError

ONE = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=("N", 2, 3)),), outputs=())
TWO = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=(1, 4)),
        TensorSpec(name="mask", dtype="float32", shape=(1, 4)),
    ),
    outputs=(),
)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2, 3)).astype(np.float32)


def read(folder: Path, signature: Signature = ONE, size: int = 4, **options: Any) -> dict[str, np.ndarray]:
    need_labels = options.pop("need_labels", False)
    samples = open_samples(DataSource(path=str(folder), **options), signature, need_labels=need_labels)
    batches = list(samples.batches(size))
    found = {n: np.concatenate([b.inputs[n] for b in batches]) for n in samples.names}
    if need_labels:
        found["labels"] = np.concatenate([b.labels for b in batches])
    return found


def refusal(folder: Path, signature: Signature = ONE, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(folder, signature, **options)
    return str(caught.value)


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_files_of_several_samples_follow_each_other_in_natural_order(tmp_path: Path, writer: Any) -> None:
    data = rows(11)
    for name, begin, end in (("2", 0, 4), ("10", 4, 5), ("30", 5, 11)):
        writer(tmp_path / f"{name}.npz", x=data[begin:end], y=np.arange(begin, end))
    found = read(tmp_path, need_labels=True)
    np.testing.assert_array_equal(found["x"], data)
    np.testing.assert_array_equal(found["labels"], np.arange(11))
    order = np.random.default_rng(3).permutation(11)[2:9]
    shuffled = read(tmp_path, need_labels=True, seed=3, skip=2, count=7)
    np.testing.assert_array_equal(shuffled["x"], data[order])
    np.testing.assert_array_equal(shuffled["labels"], order)


def test_files_of_one_sample_each_take_their_class_from_the_folder(tmp_path: Path) -> None:
    data = rows(4)
    for number, folder in enumerate(("cat", "dog", "cat", "emu")):
        (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / folder / f"{number}.npy", data[number])
    found = read(tmp_path, need_labels=True)
    np.testing.assert_array_equal(found["x"], data[[0, 2, 1, 3]])
    assert found["labels"].tolist() == [0, 0, 1, 2]


def test_what_does_not_go_together_is_named_with_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", x=rows(2))
    np.savez(tmp_path / "2.npz", x=rows(2)[..., :2])
    np.savez(tmp_path / "3.npz", x=rows(2).astype(np.float64))
    np.savez(tmp_path / "4.npz", z=rows(2))
    said = refusal(tmp_path)
    assert "2.npz: samples 'x' of [2, 2] float32, in 1.npz they are [2, 3] float32" in said
    assert "3.npz: samples 'x' of [2, 3] float64" in said
    assert "4.npz holds ['z'], 1.npz ['x']" in said


def test_bad_values_and_damaged_files_are_named(tmp_path: Path) -> None:
    data = rows(3)
    data[1, 0, 0] = np.nan
    np.savez(tmp_path / "1.npz", x=data)
    assert "'x' holds NaN: 1 value(s) in 1.npz at 1" in refusal(tmp_path)
    whole = (tmp_path / "1.npz").read_bytes()
    (tmp_path / "2.npz").write_bytes(whole[: len(whole) // 2])
    assert "2.npz" in refusal(tmp_path)


def test_an_empty_folder_says_what_is_read(tmp_path: Path) -> None:
    said = refusal(tmp_path)
    assert "the folder holds no samples" in said
    assert "jpg" in said
    assert "npz" in said


def test_a_file_of_one_sample_may_hold_its_label_as_a_single_value(tmp_path: Path) -> None:
    for number, row in enumerate(rows(3)):
        np.savez(tmp_path / f"{number}.npz", x=row, label=np.int64(number * 2))
    assert read(tmp_path, need_labels=True)["labels"].tolist() == [0, 2, 4]


def batches(count: int, size: int, kind: str) -> Iterator[Any]:
    data = rows(count)
    for start in range(0, count, size):
        part = data[start : start + size]
        labels = np.arange(start, start + len(part))
        yield {"dict": {"x": part, "labels": labels}, "tuple": (part, labels), "array": part}[kind]


@pytest.mark.parametrize("kind", ["dict", "tuple", "array"])
def test_an_iterable_becomes_the_samples_it_yields(tmp_path: Path, kind: str) -> None:
    spool(batches(10, 4, kind), tmp_path / "s")
    found = read(tmp_path / "s", need_labels=kind != "array")
    np.testing.assert_array_equal(found["x"], rows(10))
    if kind != "array":
        assert found["labels"].tolist() == list(range(10))


def test_an_iterable_may_yield_one_sample_at_a_time(tmp_path: Path) -> None:
    spool(((row, number) for number, row in enumerate(rows(5))), tmp_path / "s")
    found = read(tmp_path / "s", need_labels=True)
    np.testing.assert_array_equal(found["x"], rows(5))
    assert found["labels"].tolist() == [0, 1, 2, 3, 4]


def test_tuples_feed_the_inputs_in_their_order(tmp_path: Path) -> None:
    ids, mask = np.arange(12).reshape(3, 4), np.ones((3, 4), np.float32)
    spool(((ids[i : i + 1], mask[i : i + 1]) for i in range(3)), tmp_path / "s")
    found = read(tmp_path / "s", TWO, size=1)
    np.testing.assert_array_equal(found["ids"], ids)
    np.testing.assert_array_equal(found["mask"], mask)


def test_tensors_are_taken_as_their_values(tmp_path: Path) -> None:
    from graph_models import needed

    torch = needed("torch")
    loader = torch.utils.data.DataLoader(torch.from_numpy(rows(7)), batch_size=3)
    spool(loader, tmp_path / "s")
    np.testing.assert_array_equal(read(tmp_path / "s")["x"], rows(7))


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "yielded nothing"),
        ([rows(2), "text"], "item 1"),
        ([{"x": rows(2)}, {"z": rows(2)}], "item 1 has ['z'], item 0 had ['x']"),
        ([{"x": [object()]}], "item 0"),
        (["text"], "item 0"),
    ],
)
def test_items_that_are_no_samples_are_refused_with_their_place(
    tmp_path: Path, items: list[Any], words: str
) -> None:
    with pytest.raises(UsageError, match="iterable") as caught:
        spool(items, tmp_path / "s")
    assert words in str(caught.value)


def test_an_iterable_is_never_held_whole(tmp_path: Path) -> None:
    def items() -> Iterator[np.ndarray]:
        for _ in range(60):
            yield np.zeros((1, 500, 500), np.float32)

    signature = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 500, 500)),), outputs=())
    tracemalloc.start()
    spool(items(), tmp_path / "s")
    samples = open_samples(DataSource(path=str(tmp_path / "s")), signature)
    assert sum(len(batch) for batch in samples.batches(1)) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 500 * 500 * 4  # of 60


def test_a_digest_holds_the_samples_of_a_spec_fast(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=rows(6), labels=np.arange(6))
    text = 'schema = 1\nname = "t"\nkind = "arrays"\npath = "d.npz"\ncount = 4\nseed = 1\n'
    place = tmp_path / "s.toml"
    place.write_text(text)
    fingerprint = open_samples(DataSource(path=str(place)), ONE).fingerprint
    assert fingerprint.startswith("sha256:")
    place.write_text(f'{text}digest = "{fingerprint}"\n')
    assert open_samples(DataSource(path=str(place)), ONE).count == 4
    renamed = Signature(inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 2, 3)),), outputs=())
    assert open_samples(DataSource(path=str(place), count=2), renamed).count == 2
    place.write_text(f'{text.replace("seed = 1", "seed = 2")}digest = "{fingerprint}"\n')
    said = refusal(place)
    assert f"digest: {fingerprint} is wanted, they have sha256:" in said
    place.write_text(f'{text}digest = "{fingerprint}"\n')
    changed = rows(6)
    changed[np.random.default_rng(1).permutation(6)[0]] += 1e-6
    np.savez(tmp_path / "d.npz", x=changed, labels=np.arange(6))
    assert "the samples are not those that the spec was written for" in refusal(place)


def test_a_digest_that_is_none_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "s.toml"
    place.write_text('schema = 1\nname = "t"\nkind = "arrays"\npath = "d.npz"\ndigest = "abc"\n')
    assert "digest: got 'abc', 'sha256:' and 64 hexadecimal digits are needed" in refusal(place)

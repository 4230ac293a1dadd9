"""Samples from CSV and Parquet files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.samples import Samples, open_samples
from edgekit.errors import UsageError

FLOWERS = Signature(inputs=(TensorSpec(name="features", dtype="float32", shape=("N", 3)),), outputs=())
TWO = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=(1, 2)),
        TensorSpec(name="weight", dtype="float32", shape=(1, 1)),
    ),
    outputs=(),
)
TEXT = "length,width,label,height\n1.5,2,0,-3e-1\n4,5.25,1,6\n7,8,1,9\n"


def csv(folder: Path, text: str, name: str = "d.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def spec(folder: Path, table: str, head: str = "") -> str:
    text = f'schema = 1\nname = "t"\nkind = "table"\n{head}\n[table]\n{table}\n'
    (folder / "spec.toml").write_text(text, encoding="utf-8")
    return str(folder / "spec.toml")


def values(samples: Samples, name: str = "features", size: int = 2) -> np.ndarray:
    return np.concatenate([batch.inputs[name] for batch in samples.batches(size)])


def refusal(source: DataSource, signature: Signature = FLOWERS, *, need_labels: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        list(open_samples(source, signature, need_labels=need_labels).batches(2))
    return str(caught.value)


@pytest.mark.parametrize(
    "text", [TEXT, "\ufeff" + TEXT, TEXT.replace("\n", "\r\n"), TEXT + "\n\n", TEXT[:-1]]
)
def test_a_model_of_one_input_takes_every_column_but_the_labels(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.csv").write_bytes(text.encode())
    samples = open_samples(DataSource(path=str(tmp_path / "d.csv")), FLOWERS, need_labels=True)
    np.testing.assert_array_equal(values(samples), np.float32([[1.5, 2, -0.3], [4, 5.25, 6], [7, 8, 9]]))
    np.testing.assert_array_equal(np.concatenate([b.labels for b in samples.batches(2)]), [0, 1, 1])
    assert "table of 3 rows, features from 3 column(s), labels from 'label'" in samples.spec


def test_columns_are_chosen_by_a_spec_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    path = csv(tmp_path, 'weight,"second, quoted",first,kind\n0.5,7,3,1\n1.5,9,4,0\n')
    table = 'label = "kind"\n[table.columns]\nids = ["first", "second, quoted"]\nweight = ["weight"]'
    source = DataSource(path=path, preprocessing=spec(tmp_path, table))
    samples = open_samples(source, TWO, need_labels=True)
    np.testing.assert_array_equal(values(samples, "ids", 1), [[3, 7], [4, 9]])
    assert values(samples, "ids", 1).dtype == np.int64
    np.testing.assert_array_equal(values(samples, "weight", 1), np.float32([[0.5], [1.5]]))


def test_features_are_standardized_by_column_and_shaped_as_the_input(tmp_path: Path) -> None:
    signature = Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 3, 1)),), outputs=())
    source = DataSource(path=csv(tmp_path, TEXT), preprocessing=spec(tmp_path, "mean = [1, 2, 3]\nstd = 2"))
    samples = open_samples(source, signature)
    np.testing.assert_allclose(values(samples, "x", 1)[1].ravel(), [1.5, 1.625, 1.5])


def test_tabs_and_other_delimiters(tmp_path: Path) -> None:
    tabs = open_samples(DataSource(path=csv(tmp_path, TEXT.replace(",", "\t"), "d.tsv")), FLOWERS)
    path = csv(tmp_path, TEXT.replace(",", ";"))
    source = DataSource(path=path, preprocessing=spec(tmp_path, 'delimiter = ";"'))
    np.testing.assert_array_equal(values(tabs), values(open_samples(source, FLOWERS)))


def test_a_quoted_line_break_is_no_new_row(tmp_path: Path) -> None:
    path = csv(tmp_path, 'a,b,c,note\n1,2,3,"two\nlines"\n4,5,6,x\n')
    columns = '[table.columns]\nfeatures = ["a", "b", "c"]'
    source = DataSource(path=path, preprocessing=spec(tmp_path, columns))
    np.testing.assert_array_equal(values(open_samples(source, FLOWERS)), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT.replace("5.25", ""), "line 3, column 'width': the value is missing"),
        (TEXT.replace("5.25", "NaN"), "line 3, column 'width': the value is missing"),
        (TEXT.replace("5.25", "wide"), "line 3, column 'width': 'wide' is no number"),
        (TEXT.replace("5.25", "inf"), "holds infinity: 1 value(s) in line 3"),
        (TEXT.replace("4,5.25", "4"), "line 3: 3 values, 4 columns"),
        ("a,b,label\n1,2,3\n", "2 columns for the input features: float32[N, 3]: a sample of it has 3"),
        ("a,a,b\n1,2,3\n", "two columns are named 'a'"),
        (",a,b,c\n0,1,2,3\n", "column 1 has no name\n  hint: is it an index?"),
        ("1,2,3\n4,5,6\n", "the first line holds numbers (1, 2, 3), names of the columns are needed"),
        ("a;b;c\n1;2;3\n", "is ';' the delimiter?"),
        ("label\n1\n", "0 columns for the input features"),
        ("", "the file is empty"),
        ("a,b,c\n", "the set of samples is empty"),
        ("\x00\xff", "not a readable CSV file"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "d.csv").write_bytes(text.encode("latin-1"))
    assert words in refusal(DataSource(path=str(tmp_path / "d.csv")))


def test_a_missing_column_names_its_neighbour(tmp_path: Path) -> None:
    path = csv(tmp_path, TEXT)
    table = 'label = "lable"\n[table.columns]\nfeatures = ["length", "widht", "height"]'
    said = refusal(DataSource(path=path, preprocessing=spec(tmp_path, table)))
    assert "no column 'widht'; did you mean 'width'" in said
    assert "no column 'lable'; did you mean 'label'" in said


def test_a_fraction_for_an_integer_input_is_refused_with_its_place(tmp_path: Path) -> None:
    signature = Signature(inputs=(TensorSpec(name="features", dtype="int32", shape=(1, 3)),), outputs=())
    assert "line 2, column 'length': 1.5 is no whole number" in refusal(
        DataSource(path=csv(tmp_path, TEXT)), signature
    )
    large = csv(tmp_path, "a,b,c\n1,9007199254740994,3\n")
    assert "line 2, column 'b': 9.0072e+15 is no whole number up to 2**53" in refusal(
        DataSource(path=large), signature
    )
    wide = csv(tmp_path, "a,b,c\n1,3000000000,3\n")
    said = refusal(DataSource(path=wide), signature)
    assert "'features' holds 3000000000 in line 2: int32 goes from" in said


def test_labels_that_are_needed_and_missing_say_how_to_name_them(tmp_path: Path) -> None:
    said = refusal(DataSource(path=csv(tmp_path, "a,b,c\n1,2,3\n")), need_labels=True)
    assert "no column of that name" in said
    assert "label = ..." in said


def test_a_spec_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "prepares images, this is a table" in refusal(
        DataSource(path=csv(tmp_path, TEXT), preprocessing="imagenet-tf")
    )


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,c\n" + "1.25,2.5,3.75\n" * 50_000)
    tracemalloc.start()
    samples = open_samples(DataSource(path=path), FLOWERS)
    assert sum(len(batch) for batch in samples.batches(500)) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # two numbers a row are kept; the text alone has 0.7 MB, the values 0.6


def test_selection_and_digest_are_those_of_the_rows(tmp_path: Path) -> None:
    path = csv(tmp_path, TEXT)
    chosen = open_samples(DataSource(path=path, count=2, skip=1, seed=4), FLOWERS)
    order = np.random.default_rng(4).permutation(3)[1:]
    np.testing.assert_array_equal(values(chosen)[:, 0], np.float32([1.5, 4, 7])[order])
    before = open_samples(DataSource(path=path), FLOWERS).digest
    csv(tmp_path, TEXT.replace("5.25", "5.5"))
    assert open_samples(DataSource(path=path), FLOWERS).digest != before


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    from graph_models import needed

    arrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    columns = {"length": [1.5, 4, 7], "width": [2, 5.25, 8], "label": [0, 1, 1], "height": [-0.3, 6, 9]}
    place = tmp_path / "d.parquet"
    parquet.write_table(arrow.table(columns), place, row_group_size=2)
    wanted = open_samples(DataSource(path=csv(tmp_path, TEXT), seed=1), FLOWERS, need_labels=True)
    samples = open_samples(DataSource(path=str(place), seed=1), FLOWERS, need_labels=True)
    np.testing.assert_array_equal(values(samples), values(wanted))
    assert samples.digest == wanted.digest
    parquet.write_table(arrow.table({**columns, "width": [2, 5.25, None]}), place, row_group_size=2)
    assert "row 2, column 'width': the value is missing" in refusal(DataSource(path=str(place)))
    parquet.write_table(arrow.table({**columns, "width": ["a", "b", "c"]}), place)
    assert "column 'width' holds string, numbers are needed" in refusal(DataSource(path=str(place)))
    place.write_bytes(place.read_bytes()[:50])
    assert "not a readable Parquet file" in refusal(DataSource(path=str(place)))

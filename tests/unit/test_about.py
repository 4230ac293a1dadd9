"""What people know of a model: labels, and how its inputs are prepared."""

from __future__ import annotations

import pytest

from edgekit.core.about import About, check_labels, read_about
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import (
    CalibrationOptions,
    DataSource,
    Recipe,
    SourceOptions,
    ValidationOptions,
    load_recipe,
)
from edgekit.errors import UsageError

SPEC = """
schema = 1
name = "pictures"
kind = "images"
summary = "half size, centred"

[image]
resize = 8
mean = [1.0, 2.0, 3.0]
std = 2.0
"""
SCORES = Signature(
    inputs=(), outputs=(TensorSpec(name="scores", dtype="float32", shape=(1, 3)),)
)  # fmt: skip


def recipe(**fields) -> Recipe:
    source = SourceOptions(model="m.onnx")
    return Recipe(source=source, targets=("tflite",), precisions=("float32",), output="out", **fields)


def test_labels_are_the_lines_of_the_file_and_an_empty_end_is_none(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n dog \n\nunknown\n\n", encoding="utf-8")
    assert read_about(recipe(labels=str(tmp_path / "labels.txt"))).labels == ("cat", "dog", "", "unknown")


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe\x00"])
def test_a_file_of_labels_that_is_missing_empty_or_no_text_is_a_usage_error(content, tmp_path):
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_about(recipe(labels=str(path)))
    assert str(path) in str(caught.value)


def test_the_preprocessing_is_that_of_the_calibration_else_of_the_validation(tmp_path):
    (tmp_path / "spec.toml").write_text(SPEC, encoding="utf-8")
    spec = DataSource(path="pictures/", preprocessing=str(tmp_path / "spec.toml"))
    arrays = DataSource(path=str(tmp_path / "samples.npz"))
    expected = {"kind": "image", "resize": 8, "mean": [1.0, 2.0, 3.0], "std": 2.0, "color": "rgb"}
    for calibration, validation in ((spec, arrays), (arrays, spec)):
        about = read_about(
            recipe(
                calibration=CalibrationOptions(data=calibration),
                validation=ValidationOptions(data=validation),
            )
        )
        found = about.preprocessing()
        assert {key: found[key] for key in expected} == expected
        assert about.summary == "half size, centred"


def test_samples_without_a_spec_say_nothing_of_preprocessing(tmp_path):
    about = read_about(recipe(calibration=CalibrationOptions(data=DataSource(path=str(tmp_path / "s.npz")))))
    assert about.preprocessing() == {}


def test_labels_must_be_as_many_as_the_classes_of_some_output():
    check_labels(About(labels=("a", "b", "c")), SCORES)
    check_labels(About(), SCORES)
    with pytest.raises(UsageError, match="2 labels were given") as caught:
        check_labels(About(labels=("a", "b")), SCORES)
    assert "scores: float32[1, 3]" in caught.value.hint


def test_a_recipe_names_labels_layout_and_dynamic_dimensions(tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n", encoding="utf-8")
    text = """
targets = ["tflite"]
precisions = ["float32"]
output = "out"
layout = "source"
labels = "labels.txt"
[source]
model = "m.onnx"
[source.dynamic]
image = ["batch", "", "height"]
"""
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    loaded = load_recipe(tmp_path / "recipe.toml")
    assert loaded.labels == str(tmp_path / "labels.txt")
    assert loaded.layout == "source"
    assert loaded.source.dynamic == {"image": ("batch", "", "height")}


@pytest.mark.parametrize(
    ("kind", "table", "expected"),
    [
        ("table", "mean = [1.0, 2.0]\nstd = 4.0", {"mean": [1.0, 2.0], "std": 4.0, "columns": {}}),
        ("audio", "rate = 16000\nwindow = 512", {"rate": 16000, "window": 512, "channels": "mono"}),
    ],
)
def test_the_preparation_of_tables_and_sounds_goes_into_the_manifest_too(kind, table, expected, tmp_path):
    text = f'schema = 1\nname = "x"\nkind = "{kind}"\n[{kind}]\n{table}\n'
    (tmp_path / "spec.toml").write_text(text, encoding="utf-8")
    data = DataSource(path="data/", preprocessing=str(tmp_path / "spec.toml"))
    found = read_about(recipe(calibration=CalibrationOptions(data=data))).preprocessing()
    assert found["kind"] == kind
    assert expected.items() <= found.items()

"""What a recipe refuses before anything is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.cli import main
from edgekit.core.recipe import (
    Budgets,
    CalibrationOptions,
    DataSource,
    QuantizationOptions,
    Recipe,
    SourceOptions,
    ValidationOptions,
)
from edgekit.errors import UsageError


def recipe(*precisions: str, **quantization) -> Recipe:
    data = DataSource(path="samples.npz")
    return Recipe(
        source=SourceOptions(model="model.onnx"),
        targets=("tflite",),
        precisions=precisions,
        output="out",
        calibration=CalibrationOptions(data=data),
        quantization=QuantizationOptions(**quantization),
        validation=ValidationOptions(data=data),
        budgets=Budgets(min_sqnr_db=20.0),
    )


ALGORITHMS = {
    "bias_correction": "none", "equalize": True, "smooth": 0.5, "weight_clipping": "mse",
    "rounding": "learned", "leave_float": False, "keep": {"n": "float32"}, "rescue": True,
}  # fmt: skip


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_that_no_precision_uses_is_refused_by_name(name):
    given = {name: ALGORITHMS[name]}
    assert recipe("float16", "int8", **given).quantization != QuantizationOptions()
    with pytest.raises(UsageError, match=f"quantization.{name} would have no effect.*'int8'.*'float16'"):
        recipe("float16", "weight-int8", **given)


def test_what_mixes_precisions_serves_int8_alone():
    recipe("int16x8", keep={"n": "float32"}, equalize=True)
    for given in ({"rescue": True}, {"keep": {"n": "int16x8"}}):
        with pytest.raises(UsageError, match="it serves 'int8'; got 'int16x8'"):
            recipe("int16x8", **given)


def test_defaults_suit_every_precision():
    for precision in ("float32", "dynamic-int8", "weight-int4"):
        recipe(precision)
        recipe(precision, bias_correction="auto", smooth=0.0)


def test_all_idle_options_are_named_at_once_on_the_command_line(capsys, tmp_path: Path):
    words = ["convert", "m.onnx", "-t", "tflite", "-p", "float32", "-o", str(tmp_path / "out")]
    assert main([*words, "--equalize", "--rounding", "learned", "--no-leave-float"]) == 2
    said = capsys.readouterr().err
    for name in ("equalize", "rounding", "leave_float"):
        assert f"quantization.{name}" in said

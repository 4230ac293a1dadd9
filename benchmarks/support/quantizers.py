"""Quantizers, each called in a process of its own: edgekit, ONNX Runtime, NNCF and ai-edge-quantizer.

    python quantizers.py WHO SETTING MODEL SAMPLES OUT

MODEL is the canonical ONNX file (ai-edge-quantizer: our float32 .tflite), SAMPLES an .npz, OUT a new folder.
Prints {"seconds", "peak_mib"} of the quantization.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ENVIRONMENTS", "QUANTIZERS", "Quantizer"]

_HISTOGRAM_SAMPLES = 24  # quantize_static keeps every activation of every sample: 1.7 GB for these


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """`environment`: where it runs ("": here); `home`: its own engine; `engines`: all that run its file.

    `settings`: the first is the default, the others are the best known.
    """

    environment: str = ""
    home: str
    engines: tuple[str, ...]
    settings: tuple[str, ...]


ENVIRONMENTS = {
    "nncf": ("nncf==3.4.0", "onnx==1.23.2", "openvino==2026.4.1", "onnxruntime==1.31.1"),
    "ai-edge-quantizer": ("ai-edge-quantizer==0.10.0",),
    "espeak": ("numpy", "espeakng-loader==0.2.4"),  # speech for the voice detector
}
QUANTIZERS = {
    "quantize_static": Quantizer(
        home="onnxruntime",
        engines=("onnxruntime", "openvino"),
        settings=("default", "reduce_range", "percentile"),
    ),
    "nncf": Quantizer(
        environment="nncf",
        home="openvino",
        engines=("onnxruntime", "openvino"),
        settings=("default", "overflow_fix", "accurate_bias"),
    ),
    "ai-edge-quantizer": Quantizer(
        environment="ai-edge-quantizer",
        home="tflite",
        engines=("tflite",),
        settings=("default", "mse", "octav"),
    ),
}
Row = dict[str, np.ndarray]


def rows_of(samples: Path, shapes: dict[str, tuple[int, ...]]) -> Iterator[Row]:
    """One sample after the other, in the shapes of the model."""
    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files}
    for i in range(len(next(iter(arrays.values())))):
        yield {name: _shaped(array[i], shapes[name]) for name, array in arrays.items()}


def _shaped(sample: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """As it is, with a batch axis, or channels last."""
    batch = sample[None] if sample.ndim < len(shape) else sample
    if batch.shape != shape and batch.ndim >= 3:
        batch = np.moveaxis(batch, 1, -1)
    return np.ascontiguousarray(batch.reshape(shape))


def _onnx_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    import onnx

    graph = onnx.load(str(model)).graph
    return {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in graph.input}


def _quantize_static(setting: str, model: Path, samples: Path, out: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    limit = _HISTOGRAM_SAMPLES if setting == "percentile" else None
    source = rows_of(samples, _onnx_shapes(model))

    class Reader(CalibrationDataReader):
        count = 0

        def get_next(self) -> Row | None:
            self.count += 1
            return next(source, None) if limit is None or self.count <= limit else None

    prepared = out / "prepared.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    options: dict[str, Any] = {}
    if setting != "default":
        options = {"per_channel": True, "reduce_range": True, "activation_type": QuantType.QUInt8}
    if setting == "percentile":
        options["calibrate_method"] = CalibrationMethod.Percentile
    quantize_static(
        str(prepared), str(out / "model.onnx"), Reader(), quant_format=QuantFormat.QDQ,
        weight_type=QuantType.QInt8, **options,
    )  # fmt: skip
    prepared.unlink()


def _nncf(setting: str, model: Path, samples: Path, out: Path) -> None:
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )

    rows = list(rows_of(samples, _onnx_shapes(model)))
    options: dict[str, Any] = {}
    if setting != "default":
        options["advanced_parameters"] = AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE,
            activations_quantization_params=QuantizationParameters(per_channel=False),
        )
    if setting == "accurate_bias":
        options["fast_bias_correction"] = False
    made = nncf.quantize(onnx.load(str(model)), nncf.Dataset(rows), subset_size=len(rows), **options)
    onnx.save(made, str(out / "model.onnx"))


def _ai_edge_quantizer(setting: str, model: Path, samples: Path, out: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    interpreter = Interpreter(str(model))
    indexes = interpreter._get_full_signature_list()["serving_default"]["inputs"]
    found = {d["index"]: tuple(int(n) for n in d["shape"]) for d in interpreter.get_input_details()}
    rows = list(rows_of(samples, {name: found[index] for name, index in indexes.items()}))
    names = {"default": "MIN_MAX_UNIFORM_QUANT", "mse": "MSE", "octav": "OCTAV"}
    float_ports = [  # as ours: float32 in and out
        {"regex": ".*", "operation": kind, "algorithm_key": "no_quantize", "op_config": {}}
        for kind in ("INPUT", "OUTPUT")
    ]
    wanted = recipe.static_wi8_ai8(AlgorithmName[names[setting]]) + float_ports
    tool = quantizer.Quantizer(str(model), wanted)
    ranges = tool.calibrate({"serving_default": rows}, num_threads=1)
    tool.quantize(ranges, enable_progress_report=False).export_model(str(out / "model.tflite"))


def _edgekit(setting: str, model: Path, samples: Path, out: Path) -> dict[str, Any]:
    """Every engine's int8 artifact (and its float32 one) under `out`; seconds are those of quantization."""
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "tests" / "support")]
    from ours import SETTINGS
    from qdq import write_profile

    from edgekit import api
    from edgekit.core.events import Event
    from edgekit.core.recipe import DataSource, Recipe, SourceOptions

    out.rmdir()
    qdq = write_profile(root / "targets" / "tflite.toml", out.with_suffix(".toml"))
    seconds, peak = 0.0, 0.0

    def listen(event: Event) -> None:
        nonlocal seconds, peak
        quantizes = event.step.startswith(("calibrate", "quantize", "tune", "equalize", "smooth"))
        if quantizes and event.state == "done":
            seconds += event.seconds
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of any child so far

    calibration, quantization = SETTINGS[setting](DataSource(path=str(samples)))
    recipe = Recipe(
        source=SourceOptions(model=str(model)), targets=("tflite", "openvino", "onnxruntime", str(qdq)),
        precisions=("float32", "int8"), calibration=calibration, quantization=quantization, output=str(out),
        allow_refused=("qdq/float32",),
    )  # fmt: skip
    api.run(recipe, on_event=listen)
    return {"seconds": round(seconds, 2), "peak_mib": round(peak, 1)}


_CALLS: dict[str, Callable[[str, Path, Path, Path], dict[str, Any] | None]] = {
    "edgekit": _edgekit,
    "quantize_static": _quantize_static,
    "nncf": _nncf,
    "ai-edge-quantizer": _ai_edge_quantizer,
}

if __name__ == "__main__":
    who, setting, *places = sys.argv[1:]
    given = [Path(p) for p in places]
    given[2].mkdir(parents=True)
    started = time.perf_counter()
    answer = _CALLS[who](setting, *given)
    if answer is None:
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {"seconds": round(time.perf_counter() - started, 2), "peak_mib": round(peak_kib / 1024, 1)}
    print(json.dumps(answer))

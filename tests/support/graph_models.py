"""Small ONNX graphs, and packages that a test file cannot do without."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np
import pytest


def needed(module: str) -> Any:
    """Import a package at the top of a test file: without it the file is skipped, or fails."""
    try:
        return import_module(module)
    except ModuleNotFoundError:
        if os.environ.get("EDGEKIT_REQUIRE_ALL") == "1":
            raise
        pytest.skip(f"the package {module!r} is not installed", allow_module_level=True)


Specs = dict[str, Any]


def graph(nodes: list[Any], inputs: Specs, outputs: Specs, weights: Specs, opset: int = 20) -> Any:
    """A checked model: `inputs` and `outputs` are name -> (numpy dtype, shape), `weights` name -> array."""
    onnx = needed("onnx")
    helper = onnx.helper

    def value(name: str, spec: Any) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec[0]))
        return helper.make_tensor_value_info(name, kind, spec[1])

    made = helper.make_graph(
        nodes,
        "g",
        [value(*item) for item in inputs.items()],
        [value(*item) for item in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model)
    return model


def classifier(opset: int = 17, batch: int | str = "N") -> Any:
    """Conv, BatchNormalization, Relu, pooling, Dropout and two Gemm: two outputs of one shape."""
    helper = needed("onnx").helper
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    weights = {
        "w": normal(8, 3, 3, 3),
        "b": normal(8),
        "scale": normal(8),
        "shift": normal(8),
        "mean": normal(8),
        "var": rng.uniform(0.5, 2.0, 8).astype(np.float32),
        "first": normal(8, 5),
        "second": normal(8, 5),
        "bias": normal(5),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], pads=[1] * 4, name="stem", doc_string="/home"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Dropout", ["f"], ["d"]),
        helper.make_node("Gemm", ["d", "first", "bias"], ["logits"], name="head"),
        helper.make_node("Gemm", ["d", "second", "bias"], ["age"]),
    ]
    outputs = {"logits": (np.float32, [batch, 5]), "age": (np.float32, [batch, 5])}
    return graph(nodes, {"image": (np.float32, [batch, 3, 8, 8])}, outputs, weights, opset)


def answers(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime answers with its optimizations off."""
    ort = needed("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def operators(model: Any) -> list[str]:
    """The operator types of the main graph, in order."""
    return [node.op_type for node in model.graph.node]


def normal(*shape: int, seed: int = 0) -> Any:
    """Seeded standard normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs_of(model: Any) -> dict[str, Any]:
    """Standard normal values for every input of a model of static shapes."""
    return {
        v.name: normal(*[d.dim_value for d in v.type.tensor_type.shape.dim], seed=i)
        for i, v in enumerate(model.graph.input)
    }


def same_answers(before: Any, after: Any, tolerance: float = 2e-6) -> None:
    """Fail unless both models give the same outputs, within `tolerance` of the largest value."""
    needed("onnx").checker.check_model(after, full_check=True)
    inputs = inputs_of(after)
    expected, got = answers(before, inputs), answers(after, inputs)
    assert list(expected) == list(got)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * max(1, np.abs(value).max()))


def copy(model: Any) -> Any:
    """A model of its own."""
    return needed("onnx").ModelProto.FromString(model.SerializeToString())

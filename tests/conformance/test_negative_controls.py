"""What must be called a mismatch is: the harness is shown wrong artifacts, one fault each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conformance_compare import first_difference
from conformance_run import ENGINES, run_cases
from onnx import helper, numpy_helper
from random_cases import answers
from random_graphs import network
from tflite_models import graph

MODULES = {"tflite": "ai_edge_litert", "openvino": "openvino", "onnxruntime": "onnxruntime"}
SEED = 3
NAME = f"network-{SEED}"


def altered(path, change):
    """The prepared model with one change, the expected answers left as they are."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def scale_constant(model, name, factor):
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    values = (numpy_helper.to_array(tensor) * np.float32(factor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def last_convolution_weight(model):
    return [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")][-1].input[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_weight_scaled_by_a_twentieth_is_a_mismatch(engine, tmp_path, need):
    need(MODULES[engine])
    assert answers(engine, tmp_path, network, [SEED])[NAME].outcome == "ok"
    place = tmp_path / NAME / "model.onnx"
    altered(place, lambda m: scale_constant(m, last_convolution_weight(m), 1.05))
    assert run_cases(engine, tmp_path, [NAME])[NAME].outcome == "mismatch"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_altered_int8_scale_is_a_mismatch(engine, tmp_path, need):
    need(MODULES[engine])
    stage = f"{engine}:int8"
    assert answers(stage, tmp_path, network, [SEED])[NAME].outcome == "ok"

    def change(model):
        (last,) = [node for node in model.graph.node if last_convolution_weight(model) in node.input]
        for operand in last.input[1:]:  # the bias has the weight's scale times the input's
            (reader,) = [n for n in model.graph.node if operand in n.output]
            scale_constant(model, reader.input[1], 1.25)

    altered(tmp_path / NAME / "model.onnx", change)
    assert run_cases(stage, tmp_path, [NAME])[NAME].outcome == "mismatch"


@pytest.mark.parametrize("engine", ENGINES)
def test_two_outputs_that_changed_places_are_a_mismatch(engine, tmp_path, need):
    need(MODULES[engine])

    def two_outputs(seed):
        nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])]
        return graph(nodes, {"x": (2, 3)}, ["a", "b"], {})

    name = "two_outputs-0"
    assert answers(engine, tmp_path, two_outputs, [0])[name].outcome == "ok"

    def swap(model):
        first, second = model.graph.output
        first.name, second.name = second.name, first.name

    altered(tmp_path / name / "model.onnx", swap)
    assert run_cases(engine, tmp_path, [name])[name].outcome == "mismatch"


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (np.zeros((2, 1), np.float32), np.zeros((1, 2), np.float32)),
        (np.zeros(2, np.float32), np.zeros(2, np.float64)),
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True]), np.array([False])),
        (np.array([np.nan], np.float32), np.array([0], np.float32)),
        (np.array([np.inf], np.float32), np.array([-np.inf], np.float32)),
        (np.array([0], np.float32), [np.array([0], np.float32)]),
        (np.array([5], np.int8), np.array([7], np.int8)),
        (np.array([5], np.int32), np.array([6], np.int32)),
    ],
)
def test_shapes_dtypes_and_single_values_count(got, expected):
    assert first_difference({"y": got}, [expected], rtol=1e-3, atol=1e-7, steps=1)


def test_a_child_that_dies_is_the_crash_of_one_case_and_the_batch_goes_on(tmp_path, monkeypatch):
    import conformance_run

    dying = tmp_path / "worker.py"
    dying.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    if line.strip() == 'bad':\n"
        "        os.kill(os.getpid(), 11)\n"
        "    os.write(int(sys.argv[3]), json.dumps({'outcome': 'ok'}).encode() + b'\\n')\n"
    )
    monkeypatch.setattr(conformance_run, "_WORKER", dying)
    found = run_cases("prepare", tmp_path, ["a", "bad", "b"])
    assert [o.outcome for o in found.values()] == ["ok", "crash", "ok"]
    assert "-11" in found["bad"].detail


def test_a_child_that_hangs_is_the_crash_of_one_case(tmp_path, monkeypatch):
    import conformance_run

    hanging = tmp_path / "worker.py"
    hanging.write_text("import sys, time\nfor line in sys.stdin:\n    time.sleep(60)\n")
    monkeypatch.setattr(conformance_run, "_WORKER", hanging)
    monkeypatch.setattr(conformance_run, "DEADLINE_S", 1.0)
    found = run_cases("prepare", tmp_path, ["slow"])
    assert found["slow"].outcome == "crash"
    assert "no answer" in found["slow"].detail

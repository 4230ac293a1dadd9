"""Random graphs through every engine, against ONNX Runtime with its optimizer off."""

from __future__ import annotations

import pytest
from conformance_run import ENGINES
from random_cases import answers
from random_graphs import arithmetic, network

MODULES = {"tflite": "ai_edge_litert", "openvino": "openvino", "onnxruntime": "onnxruntime"}
FEW, MANY = 25, 400


def wrong(stage, folder, make, seeds, **options):
    return {n: o for n, o in answers(stage, folder, make, seeds, **options).items() if o.outcome != "ok"}


@pytest.mark.parametrize("make", [network, arithmetic])
@pytest.mark.parametrize("engine", ENGINES)
def test_random_float_graphs_agree_with_onnx_runtime(engine, make, tmp_path, need):
    need(MODULES[engine])
    assert not wrong(engine, tmp_path, make, range(FEW))


@pytest.mark.parametrize("engine", ENGINES)
def test_random_quantized_networks_agree_with_onnx_runtime(engine, tmp_path, need):
    need(MODULES[engine])
    assert not wrong(f"{engine}:int8", tmp_path, network, range(FEW))


@pytest.mark.parametrize("engine", ENGINES)
def test_random_mixtures_of_int8_and_float_agree_with_onnx_runtime(engine, tmp_path, need):
    need(MODULES[engine])
    assert not wrong(f"{engine}:int8", tmp_path, network, range(FEW), mixed=True)


@pytest.mark.conformance
@pytest.mark.parametrize("make", [network, arithmetic])
@pytest.mark.parametrize("engine", ENGINES)
def test_many_random_float_graphs_agree_with_onnx_runtime(engine, make, tmp_path, need):
    need(MODULES[engine])
    assert not wrong(engine, tmp_path, make, range(FEW, MANY))


@pytest.mark.conformance
@pytest.mark.parametrize("engine", ENGINES)
def test_many_random_quantized_networks_agree_with_onnx_runtime(engine, tmp_path, need):
    need(MODULES[engine])
    assert not wrong(f"{engine}:int8", tmp_path, network, range(FEW, MANY))


@pytest.mark.conformance
@pytest.mark.parametrize("engine", ENGINES)
def test_many_random_mixtures_agree_with_onnx_runtime(engine, tmp_path, need):
    need(MODULES[engine])
    assert not wrong(f"{engine}:int8", tmp_path, network, range(FEW, MANY), mixed=True)

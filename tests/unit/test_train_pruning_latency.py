"""Latency that pruning goes by: every graph in turns with the first."""

import onnx
import pytest
from quantize_models import GraphBuilder

from edgekit.core.model import Signature
from edgekit.train.pruning.latency import LatencyMeter


def convolutions(path, count):
    b, read = GraphBuilder(), "x"
    for number in range(count):
        read = b.add("Conv", [read, b.weight(f"w{number}", 16, 16, 3, 3)], f"y{number}", pads=[1] * 4)
    onnx.save(b.build({"x": [1, 16, 64, 64]}, [read]), path)
    return path


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_fortieth_of_the_work_takes_less_than_half_of_the_time_of_the_first_graph(tmp_path, need, target):
    need(target)
    long, short = convolutions(tmp_path / "long.onnx", 40), convolutions(tmp_path / "short.onnx", 1)
    with LatencyMeter(target, Signature(inputs=(), outputs=()), None) as meter:
        first = meter(long)
        assert 0 < meter(short) < first / 2

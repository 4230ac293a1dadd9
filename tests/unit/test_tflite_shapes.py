"""The layout of ports, and what stays dynamic: shapes end to end."""

from __future__ import annotations

import pytest
from onnx import helper
from tflite_models import feeds, graph, invoke, lowered, reference, relative_error
from tflite_networks import NETWORKS, Net

from edgekit.backends import refusal
from edgekit.core.target import load_target

LAST_1D, LAST_2D = (0, 2, 1), (0, 2, 3, 1)


def attention():
    """One block with a mask [1, 1, L, L] and a cache of keys [1, heads, P, D] that grows."""
    n = Net(7)
    q = n.add(
        "Transpose", [n.add("Reshape", [n.gemm3("tokens", 8, 8), n.ints(1, 6, 2, 4)])], perm=[0, 2, 1, 3]
    )
    k = n.add(
        "Transpose", [n.add("Reshape", [n.gemm3("tokens", 8, 8), n.ints(1, 6, 2, 4)])], perm=[0, 2, 1, 3]
    )
    keys = n.add("Concat", ["cache", k], axis=2)
    scores = n.add("MatMul", [q, n.add("Transpose", [keys], perm=[0, 1, 3, 2])])
    weights = n.add("Softmax", [n.add("Add", [scores, "mask"])], axis=-1)
    mixed = n.add("Transpose", [n.add("MatMul", [weights, keys])], perm=[0, 2, 1, 3])
    y = n.gemm3(n.add("Reshape", [mixed, n.ints(1, 6, 8)]), 8, 8)
    inputs = {"tokens": (1, 6, 8), "mask": (1, 1, 6, 9), "cache": (1, 2, 3, 4)}
    return n.build(inputs, y, keys)


def detector():
    """A backbone, and a head whose boxes [1, N, 4] and scores [1, N, 2] are tables."""
    n = Net(8)
    x = n.conv(n.conv("image", 3, 8, stride=2, act="Relu"), 8, 8, stride=2, act="Relu")
    tables = []
    for columns in (4, 2):
        head = n.conv(x, 8, 3 * columns, k=1)
        moved = n.add("Transpose", [head], perm=[0, 2, 3, 1])
        tables.append(n.add("Reshape", [moved, n.ints(1, 3 * 16, columns)]))
    return n.build({"image": (1, 3, 16, 16)}, tables[0], n.add("Sigmoid", [tables[1]]))


def line_cnn():
    """A 1-D network from a signal [1, C, L] to another [1, C, L]."""
    n = Net(9)
    x = "signal"
    for cin, cout in ((2, 6), (6, 3)):
        inputs = [x, n.weight(cout, cin, 5, fan_in=cin * 5), n.weight(cout, fan_in=20)]
        x = n.add("Relu", [n.add("Conv", inputs, kernel_shape=[5], pads=[2, 2])])
    return n.build({"signal": (1, 2, 32)}, x)


def conditioned():
    """A picture, a gate [1, 8, 1, 1] and an offset [1, 8, 4, 4] that no spatial kernel reads directly."""
    n = Net(10)
    x = n.add("Mul", [n.conv("image", 3, 8, stride=2), "gate"])
    x = n.add("Add", [x, "offset"])
    return n.build({"image": (1, 3, 8, 8), "gate": (1, 8, 1, 1), "offset": (1, 8, 4, 4)}, n.conv(x, 8, 4))


def check(model, tmp_path, **options):
    answer = invoke(lowered(model, tmp_path, **options), feeds(model))
    expected = reference(model, feeds(model))
    assert max(relative_error(answer.outputs[name], expected[name]) for name in expected) <= 1e-5
    ports = {io.name: io.axes for io in (*answer.artifact.manifest.inputs, *answer.artifact.manifest.outputs)}
    return answer, list(ports.values()), ports


def test_a_transformer_keeps_the_layout_of_its_mask_and_its_cache(tmp_path, need):
    need("ai_edge_litert")
    _, axes, _ = check(attention(), tmp_path)
    assert axes == [()] * 5


@pytest.mark.parametrize("name", NETWORKS)
def test_a_convolutional_network_takes_pictures_channels_last(name, tmp_path, need):
    need("ai_edge_litert")
    answer, _, ports = check(NETWORKS[name](), tmp_path)
    assert ports["image"] == LAST_2D
    assert answer.count("TRANSPOSE") == 0


def test_a_detector_takes_a_picture_channels_last_and_gives_its_tables_as_they_are(tmp_path, need):
    need("ai_edge_litert")
    answer, axes, _ = check(detector(), tmp_path)
    assert axes == [LAST_2D, (), ()]
    assert answer.count("TRANSPOSE") == 0


def test_a_network_in_one_dimension_takes_and_gives_lines_channels_last(tmp_path, need):
    need("ai_edge_litert")
    answer, axes, _ = check(line_cnn(), tmp_path)
    assert axes == [LAST_1D, LAST_1D]
    assert answer.count("TRANSPOSE") == 0


def test_everything_that_meets_a_feature_map_follows_its_layout(tmp_path, need):
    need("ai_edge_litert")
    answer, axes, _ = check(conditioned(), tmp_path)
    assert axes == [LAST_2D] * 4
    assert answer.count("TRANSPOSE") == 0


@pytest.mark.parametrize("make", [attention, detector, line_cnn, conditioned])
def test_the_source_layout_changes_no_port(make, tmp_path, need):
    need("ai_edge_litert")
    _, axes, _ = check(make(), tmp_path, layout="source")
    assert set(axes) == {()}


def test_a_picture_that_no_spatial_kernel_reads_keeps_its_layout(tmp_path, need):
    need("ai_edge_litert")
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    _, axes, _ = check(graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], {}), tmp_path)
    assert axes == [(), ()]


def test_onnx_engines_say_that_they_keep_the_source_layout():
    from dataclasses import replace

    for name in ("openvino", "onnxruntime"):
        (reason,) = refusal(replace(load_target(name), layout="nhwc"), "float32")
        assert "keep the source's layout" in reason.why
    assert refusal(load_target("tflite"), "float32") == []

"""Dimensions that stay dynamic: merged from several sizes, kept by every engine, checked by the session."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tflite_models import Qdq, graph, reference, relative_error
from tflite_networks import NETWORKS, Net

from edgekit.backends import onnxruntime, openvino, tflite
from edgekit.backends.dynamic import opened
from edgekit.backends.request import Request
from edgekit.backends.tflite.backend import build_graph
from edgekit.backends.tflite.computed_shapes import follows
from edgekit.backends.tflite.dynamic import merge_sizes
from edgekit.core.dynamic import Dynamic, dynamic_of
from edgekit.core.target import load_target
from edgekit.errors import Unsupported, UsageError
from edgekit.graph.open_dimensions import open_dimensions
from edgekit.graph.prove_sizes import prove_sizes
from edgekit.runtime import Session

BACKENDS = {"tflite": tflite, "onnxruntime": onnxruntime, "openvino": openvino}
MODULES = {"tflite": "ai_edge_litert", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def resized(model, shapes):
    """The same network on inputs of other shapes."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in copy.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)


def shapes_of(model):
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in model.graph.input}


def merged(make, names, sizes):
    """`make(**sizes)` in three sizes, as one graph."""
    models = [make(**{name: known[k] for name, known in sizes.items()}) for k in range(3)]
    return open_dimensions(models, Dynamic(inputs=names, outputs={}, sizes=sizes))[0]


def attention(batch: int, steps: int = 6):
    """Attention over tokens; batch and steps are written into every reshape, as exporters do."""
    n = Net(7)
    heads = []
    for _ in range(3):
        split = n.add("Reshape", [n.gemm3("tokens", 8, 8), n.ints(batch, steps, 2, 4)])
        heads.append(n.add("Transpose", [split], perm=[0, 2, 1, 3]))
    q, k, v = heads
    scores = n.add("MatMul", [q, n.add("Transpose", [k], perm=[0, 1, 3, 2])])
    mixed = n.add("MatMul", [n.add("Softmax", [scores], axis=-1), v])
    joined = n.add("Reshape", [n.add("Transpose", [mixed], perm=[0, 2, 1, 3]), n.ints(batch, steps, 8)])
    return n.build({"tokens": (batch, steps, 8)}, n.gemm3(joined, 8, 8))


def picture(name):
    def make(batch: int, height: int = 32, width: int = 32):
        return resized(NETWORKS[name](), {"image": (batch, 3, height, width)})

    return make


def line(batch: int, length: int):
    n = Net(9)
    x = "signal"
    for cin, cout in ((2, 6), (6, 3)):
        inputs = [x, n.weight(cout, cin, 5, fan_in=cin * 5), n.weight(cout, fan_in=20)]
        x = n.add("Relu", [n.add("Conv", inputs, kernel_shape=[5], pads=[2, 2])])
    return n.build({"signal": (batch, 2, length)}, x)


def integer_picture(batch: int, height: int, width: int):
    q = Qdq()
    x = q.input("image", (batch, 3, height, width))
    w = q.weight("w", (4, 3, 3, 3), axis=0)
    y = q.add("Conv", [x, w, q.bias("b", w)], "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = q.quantized(y, 0.1, 3)
    y = q.add("GlobalAveragePool", [y], "mean")
    return q.build(q.quantized(y, 0.05, 3))


def enlarged(batch: int, height: int, width: int):
    """Twice by interpolation, twice by an overlapping transposed convolution, three times by repetition."""
    scales = {"two": np.float32([1, 1, 2, 2]), "three": np.float32([1, 1, 3, 3])}
    random = np.random.default_rng(5)
    weight = (random.standard_normal((3, 4, 3, 3)) * 0.3).astype(np.float32)
    nodes = [
        helper.make_node("Resize", ["image", "", "two"], ["a"], mode="linear", name="smooth"),
        helper.make_node("ConvTranspose", ["a", "weight"], ["b"], strides=[2, 2], pads=[1, 1, 1, 1],
                         output_padding=[1, 1], name="up"),
        helper.make_node("Resize", ["b", "", "three"], ["c"], mode="nearest", name="blocks",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]  # fmt: skip
    return graph(nodes, {"image": (batch, 3, height, width)}, ["c"], {"weight": weight, **scales})


def integer_mask(batch: int, height: int, width: int):
    q = Qdq()
    x = q.input("image", (batch, 3, height, width))
    w = q.weight("w", (3, 4, 2, 2), axis=1)
    y = q.add("ConvTranspose", [x, w, q.bias("b", w)], "y", kernel_shape=[2, 2], strides=[2, 2])
    return q.build(q.quantized(y, 0.05, 3))


PICTURE = {"image": ("batch", "", "height", "width")}
SQUARE = {"batch": (1, 2, 3), "height": (32, 34, 33), "width": (32, 33, 34)}
FOURS = {"batch": (1, 2, 3), "height": (16, 24, 20), "width": (16, 20, 24)}
CASES = {
    "a batch of pictures": (picture("mobilenet"), {"image": ("batch",)}, {"batch": (1, 2, 3)}, "float32"),
    "pictures of any size": (picture("resnet"), PICTURE, SQUARE, "float32"),
    "integer pictures of any size": (integer_picture, PICTURE, SQUARE, "int8"),
    "lines of any length": (
        line, {"signal": ("batch", "", "length")}, {"batch": (1, 2, 3), "length": (32, 34, 33)}, "float32",
    ),
    "a batch of sentences": (attention, {"tokens": ("batch",)}, {"batch": (1, 2, 3)}, "float32"),
    "sentences of any length": (
        attention, {"tokens": ("batch", "steps")}, {"batch": (1, 2, 3), "steps": (6, 8, 7)}, "float32",
    ),
    "masks of any size": (picture("unet"), PICTURE, FOURS, "float32"),
    "enlarged pictures of any size": (enlarged, PICTURE, SQUARE, "float32"),
    "integer masks of any size": (integer_mask, PICTURE, SQUARE, "int8"),
}  # fmt: skip


def test_a_graph_that_follows_its_input_to_another_answer_is_not_proven(tmp_path, need):
    need("onnxruntime")
    names, sizes = {"signal": ("batch",)}, {"batch": (1, 2, 3)}
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.onnx"))
        onnx.save(line(number + 1, 32), paths[-1])
    model = merged(lambda batch: line(batch, 32), names, sizes)
    for name, factor in (("good", 1.0), ("bad", 1.05)):
        weight = next(t for t in model.graph.initializer if len(t.dims) == 3)
        scaled = numpy_helper.to_array(weight) * np.float32(factor)
        weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
        onnx.save(opened(model), tmp_path / f"{name}.onnx")
    prove_sizes(paths, str(tmp_path / "good.onnx"))
    with pytest.raises(Unsupported, match="does not answer like the static one") as caught:
        prove_sizes(paths, str(tmp_path / "bad.onnx"))
    assert caught.value.reasons[0].why.startswith("size 1 of 3: ")


def lowered(model, folder, engine, precision):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "source.onnx"
    onnx.save(model, path)
    target, out = load_target(engine), folder / engine
    out.mkdir()
    request = Request(model=path, target=target, precision=precision, out=out, source_digest="0" * 64)
    return BACKENDS[engine].lower(request)


# The integer case has 8-bit weights, which saturate in the other engines on x86 without VNNI.
RUNS = [(c, e) for c in CASES for e in BACKENDS if CASES[c][3] == "float32" or e == "tflite"]


@pytest.mark.parametrize(("case", "engine"), RUNS)
def test_an_artifact_answers_in_sizes_it_was_never_lowered_in(case, engine, tmp_path, need):
    need(MODULES[engine])
    make, names, sizes, precision = CASES[case]
    artifact = lowered(merged(make, names, sizes), tmp_path, engine, precision)
    steps = {name: known["step"] for name, known in artifact.manifest.dynamic.items()}
    assert set(steps) == set(sizes)
    with Session(artifact.folder, threads=1, layout="source") as session:
        (port,) = session.inputs
        assert [d for d in port.shape if isinstance(d, str)] == [n for n in names[port.name] if n]
        for k in (5, 0, 1):
            now = {name: known[0] + k * steps[name] for name, known in sizes.items()}
            model = make(**now)
            values = np.random.default_rng(k).standard_normal(shapes_of(model)[port.name]).astype(np.float32)
            (expected,) = reference(model, {port.name: values}).values()
            (got,) = session.run({port.name: values}).values()
            assert got.shape == expected.shape
            tolerance = 1e-5 if precision == "float32" else 0.05 / float(np.abs(expected).max()) * 1.01
            assert relative_error(got, expected) <= tolerance


def test_the_same_dynamic_model_gives_the_same_bytes(tmp_path, need):
    need("ai_edge_litert")
    make, names, sizes, _ = CASES["pictures of any size"]
    written = []
    for folder in ("a", "b"):
        artifact = lowered(merged(make, names, sizes), tmp_path / folder, "tflite", "float32")
        written.append((artifact.folder / "model.tflite").read_bytes())
    assert written[0] == written[1]


def test_the_file_of_litert_says_minus_one_where_it_can_change(tmp_path, need):
    need("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    make, names, sizes, _ = CASES["pictures of any size"]
    artifact = lowered(merged(make, names, sizes), tmp_path, "tflite", "float32")
    interpreter = Interpreter(str(artifact.folder / "model.tflite"))
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [-1, -1, -1, 3]
    assert interpreter.get_output_details()[0]["shape_signature"].tolist() == [-1, 10]


def test_litert_refuses_what_its_kernel_takes_from_the_file_by_its_node(tmp_path, need):
    need("ai_edge_litert")

    def make(batch):
        node = helper.make_node("Tile", ["x", "repeats"], ["y"], name="tile")
        return graph([node], {"x": (1, batch)}, ["y"], {"repeats": np.asarray([batch + 1, 1], np.int64)})

    models = [make(batch) for batch in (1, 2, 3)]
    reasons = merge_sizes([build_graph_of(model, tmp_path) for model in models])
    assert [reason.node for reason in reasons] == ["tile"]
    assert reasons[0].why.startswith("TILE: its constant")


def build_graph_of(model, folder):
    onnx.save(model, folder / "one.onnx")
    found, reasons = build_graph(folder / "one.onnx", target=load_target("tflite"), precision="float32")
    assert not reasons
    return found


@pytest.mark.parametrize(
    ("kind", "values", "shapes", "expected"),
    [
        (
            "RESHAPE", [(1, 6, 2), (2, 8, 2), (3, 7, 2)], [(1, 6, 4), (2, 8, 4), (3, 7, 4)],
            [(0, 1, 0), (1, 1, 0), (0, 0, 2)],
        ),
        ("RESHAPE", [(6, 1), (8, 4), (7, 9)], [(6, 2), (8, 2), (7, 2)], [(0, 1, 0), (0, 0, -1)]),
        ("RESHAPE", [(5, 1), (9, 4), (3, 9)], [(6, 2), (8, 2), (7, 2)], None),
        ("SLICE", [(4, 1), (6, 2), (5, 3)], [(6, 1), (8, 2), (7, 3)], [(0, 1, -2), (1, 1, 0)]),
        ("SLICE", [(1, 1), (2, 2), (3, 3)], [(6, 1), (8, 2), (7, 3)], None),  # grows with the other dimension
        ("TILE", [(1, 1), (2, 1), (3, 1)], [(1, 1), (2, 1), (3, 1)], None),
    ],
)  # fmt: skip
def test_a_parameter_follows_the_dimension_it_stands_for_and_no_other(kind, values, shapes, expected):
    place = {"RESHAPE": 1, "SLICE": 2, "TILE": 1}[kind]
    rule = follows(kind, place, [np.asarray(v, np.int32) for v in values], shapes)
    found = None if rule is None else list(zip(rule.axes, rule.factors, rule.offsets, strict=True))
    assert found == expected


def test_the_session_refuses_a_size_between_the_steps_and_a_size_that_is_fixed(tmp_path, need):
    need("ai_edge_litert")
    make, names, sizes, _ = CASES["pictures of any size"]
    artifact = lowered(merged(make, names, sizes), tmp_path, "tflite", "float32")
    step = artifact.manifest.dynamic["height"]["step"]
    assert step > 1  # a strided convolution pads odd and even pictures in different ways
    with Session(artifact.folder) as session:
        with pytest.raises(UsageError) as caught:
            session.run({"image": np.zeros((1, 33, 32, 3), np.float32)})
        said = f"input 'image': height is 33; allowed: 32 and steps of {step} from it"
        assert caught.value.problems == (said,)
        with pytest.raises(UsageError) as caught:
            session.run({"image": np.zeros((1, 32, 32, 4), np.float32)})
        assert "wanted float32[batch, height, width, 3]" in caught.value.problems[0]
        with pytest.raises(UsageError) as caught:
            session.run({"image": np.zeros((0, 32, 32, 3), np.float32)})
        assert "batch is 0" in caught.value.problems[0]


def test_a_resize_to_twice_the_size_becomes_a_resize_by_two():
    def make(height):
        sizes = np.asarray([1, 3, 2 * height, 16], np.int64)
        node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="up", mode="nearest")
        return graph([node], {"x": (1, 3, height, 8)}, ["y"], {"sizes": sizes})

    model = merged(make, {"x": ("", "", "height")}, {"height": (8, 9, 10)})
    (node,) = model.graph.node
    (scales,) = model.graph.initializer
    assert list(node.input) == ["x", "", scales.name]
    assert onnx.numpy_helper.to_array(scales).tolist() == [1, 1, 2, 2]
    assert dynamic_of(model).outputs == {"y": ("", "", "?", "")}


def test_a_constant_that_cannot_follow_is_refused_by_its_node():
    def make(batch):
        table = np.zeros((batch, 4), np.float32)
        return graph([helper.make_node("Add", ["x", "table"], ["y"], name="add")], {"x": (batch, 4)}, ["y"],
                     {"table": table})  # fmt: skip

    with pytest.raises(Unsupported) as caught:
        merged(make, {"x": ("batch",)}, {"batch": (1, 2, 3)})
    (reason,) = caught.value.reasons
    assert (reason.node, "'table' depends on the size of batch" in reason.why) == ("add (Add)", True)


def test_a_network_that_is_another_in_another_size_is_refused():
    def make(batch):
        op = "Relu" if batch == 1 else "Abs"
        return graph([helper.make_node(op, ["x"], ["y"], name="node")], {"x": (batch, 4)}, ["y"], {})

    with pytest.raises(Unsupported) as caught:
        merged(make, {"x": ("batch",)}, {"batch": (1, 2, 3)})
    assert "another node in another size" in caught.value.reasons[0].why

"""Several signatures in one file, and states that the caller carries from call to call."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tflite_models import feeds, graph, reference, relative_error
from tflite_networks import Net

from edgekit.backends.tflite import lower_signatures
from edgekit.core.dynamic import Dynamic
from edgekit.core.target import load_target
from edgekit.errors import Unsupported, UsageError
from edgekit.graph.open_dimensions import open_dimensions
from edgekit.runtime import Session

HIDDEN, FEATURES, CHUNK, CHUNKS = 6, 4, 3, 100


def encoder():
    n = Net(1)
    y = n.add("Tanh", [n.gemm("picture", 64, 32)])
    return n.build({"picture": (1, 64)}, y)


def classifier():
    """Begins with the same matrix product as the encoder, and goes on."""
    n = Net(1)
    y = n.add("Tanh", [n.gemm("picture", 64, 32)])
    return n.build({"picture": (1, 64)}, n.add("Softmax", [n.gemm(y, 32, 5)]))


def recurrent(op, steps):
    """A recurrent layer over `steps` frames, its states inputs and outputs."""
    gates, states = (4, ("h", "c")) if op == "LSTM" else (3, ("h",))
    random = np.random.default_rng(3)
    constants = {
        "w": (random.standard_normal((1, gates * HIDDEN, FEATURES)) * 0.5).astype(np.float32),
        "r": (random.standard_normal((1, gates * HIDDEN, HIDDEN)) * 0.5).astype(np.float32),
        "b": (random.standard_normal((1, 2 * gates * HIDDEN)) * 0.1).astype(np.float32),
    }
    inputs = ["frames", "w", "r", "b", "", *states]
    outputs = ["y", *(f"next_{state}" for state in states)]
    node = helper.make_node(op, inputs, outputs, hidden_size=HIDDEN, name="layer")
    shapes = {"frames": (steps, 1, FEATURES), **dict.fromkeys(states, (1, 1, HIDDEN))}
    return graph([node], shapes, outputs, constants)


def causal(length):
    """A causal convolution that keeps the last 4 frames as its state."""
    n = Net(5)
    x = n.add("Concat", ["past", "frames"], axis=2)
    conv = [x, n.weight(3, 2, 5, fan_in=10), n.weight(3, fan_in=20)]
    y = n.add("Relu", [n.add("Conv", conv, kernel_shape=[5])])
    ends = [n.ints(length), n.ints(length + 4), n.ints(2)]
    kept = n.add("Slice", [x, *ends])
    return n.build({"past": (1, 2, 4), "frames": (1, 2, length)}, y, kept)


def lowered(models, folder, **options):
    paths = {}
    for name, model in models.items():
        paths[name] = folder / f"{name}.onnx"
        onnx.save(model, paths[name])
    target, out = load_target("tflite"), folder / "out"
    return lower_signatures(paths, target=target, precision="float32", out=out, **options)


def test_every_signature_of_one_file_answers_like_its_own_model(tmp_path, need):
    need("ai_edge_litert")
    models = {"encode": encoder(), "classify": classifier()}
    artifact = lowered(models, tmp_path)
    for name, model in models.items():
        (expected,) = reference(model, feeds(model)).values()
        with Session(artifact.folder, threads=1, signature=name) as session:
            assert [io.name for io in session.outputs] == [model.graph.output[0].name]
            for _ in range(2):
                (got,) = session.run(feeds(model)).values()
                assert relative_error(got, expected) <= 1e-5


def test_the_first_signature_is_the_default_and_an_unknown_one_names_its_neighbour(tmp_path, need):
    need("ai_edge_litert")
    artifact = lowered({"encode": encoder(), "classify": classifier()}, tmp_path)
    with Session(artifact.folder) as session:
        assert session.manifest.signature == "encode"
    with pytest.raises(UsageError, match="did you mean 'classify'"):
        Session(artifact.folder, signature="clasify")


def test_a_weight_that_two_signatures_share_is_stored_once(tmp_path, need):
    need("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema

    artifact = lowered({"encode": encoder(), "classify": classifier()}, tmp_path)
    data = (artifact.folder / "model.tflite").read_bytes()
    model = schema.Model.GetRootAs(data, 0)
    sizes = [model.Buffers(i).DataLength() for i in range(model.BuffersLength())]
    assert sizes.count(64 * 32 * 4) == 1
    keys = [model.SignatureDefs(i).SignatureKey() for i in range(model.SignatureDefsLength())]
    assert keys == [b"encode", b"classify"]


def test_a_file_of_one_signature_says_so(tmp_path, need):
    need("ai_edge_litert")
    from tflite_models import lowered as lowered_alone

    artifact = lowered_alone(encoder(), tmp_path)
    with pytest.raises(UsageError, match="there is only one signature"):
        Session(artifact.folder, signature="encode")


def test_a_model_that_cannot_be_lowered_is_named_with_its_node(tmp_path, need):
    need("ai_edge_litert")
    node = helper.make_node("NonZero", ["x"], ["y"], name="where")
    model = graph([node], {"x": (3,)}, ["y"], {})
    with pytest.raises(Unsupported) as caught:
        lowered({"encode": encoder(), "find": model}, tmp_path)
    assert {reason.node.partition(":")[0] for reason in caught.value.reasons} == {"find"}


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_a_recurrent_state_carried_over_100_chunks_is_that_of_the_whole_sequence(op, tmp_path, need):
    need("ai_edge_litert")
    states = ["h", "c"] if op == "LSTM" else ["h"]
    frames = np.random.default_rng(4).standard_normal((CHUNK * CHUNKS, 1, FEATURES)).astype(np.float32)
    now = {state: np.zeros((1, 1, HIDDEN), np.float32) for state in states}
    expected = reference(recurrent(op, CHUNK * CHUNKS), {"frames": frames, **now})
    artifact = lowered({"step": recurrent(op, CHUNK)}, tmp_path)
    outputs = []
    with Session(artifact.folder, threads=1, layout="source") as session:
        for chunk in np.split(frames, CHUNKS):
            answer = session.run({"frames": chunk, **now})
            outputs.append(answer["y"])
            now = {state: answer[f"next_{state}"] for state in states}
    assert relative_error(np.concatenate(outputs), expected["y"]) <= 1e-5
    assert all(relative_error(now[state], expected[f"next_{state}"]) <= 1e-5 for state in states)


def test_a_convolution_fed_in_chunks_with_its_past_is_the_convolution_of_the_whole(tmp_path, need):
    need("ai_edge_litert")
    frames = np.random.default_rng(6).standard_normal((1, 2, 8 * CHUNKS)).astype(np.float32)
    past = np.zeros((1, 2, 4), np.float32)
    whole = causal(8 * CHUNKS)
    expected = next(iter(reference(whole, {"past": past, "frames": frames}).values()))
    model = causal(8)
    y, kept = (output.name for output in model.graph.output)
    artifact = lowered({"step": model}, tmp_path)
    outputs = []
    with Session(artifact.folder, threads=1, layout="source") as session:
        for chunk in np.split(frames, CHUNKS, axis=2):
            answer = session.run({"past": past, "frames": chunk})
            past = answer[kept]
            outputs.append(answer[y])
    assert relative_error(np.concatenate(outputs, axis=2), expected) <= 1e-5


def batched(make, sizes):
    """`make(batch)` in three sizes, as one graph whose batch is dynamic."""
    models = [make(batch) for batch in sizes]
    name = models[0].graph.input[0].name
    return open_dimensions(models, Dynamic(inputs={name: ("n",)}, outputs={}, sizes={"n": sizes}))[0]


def scorer(classes):
    def make(batch):
        n = Net(2)
        y = n.add("Reshape", [n.gemm("picture", 64, 6 * classes), n.ints(batch, 6, classes)])
        return n.build({"picture": (batch, 64)}, n.add("Softmax", [y], axis=-1))

    return make


def test_every_signature_keeps_its_dynamic_batch(tmp_path, need):
    need("ai_edge_litert")
    makers = {"few": scorer(3), "many": scorer(5)}
    models = {name: batched(make, (1, 2, 3)) for name, make in makers.items()}
    artifact = lowered({**models, "encode": encoder()}, tmp_path)
    assert artifact.manifest.dynamic == {"n": {"size": 1, "step": 1}}
    for name, make in makers.items():
        with Session(artifact.folder, threads=1, signature=name) as session:
            assert session.inputs[0].shape == ("n", 64)
            for batch in (4, 1, 2):
                model = make(batch)
                (expected,) = reference(model, feeds(model)).values()
                (got,) = session.run(feeds(model)).values()
                assert relative_error(got, expected) <= 1e-5
    with Session(artifact.folder, threads=1, signature="encode") as session:
        assert session.inputs[0].shape == (1, 64)


def test_a_dimension_has_the_same_sizes_in_every_signature(tmp_path, need):
    need("ai_edge_litert")
    models = {"few": batched(scorer(3), (1, 2, 3)), "many": batched(scorer(5), (2, 4, 6))}
    with pytest.raises(Unsupported) as caught:
        lowered(models, tmp_path)
    (reason,) = caught.value.reasons
    assert (reason.node, reason.why) == ("many", "'n' is 1 and steps of 1 in 'few', 2 and steps of 2 here")

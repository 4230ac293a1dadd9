"""LSTM, GRU and RNN against ONNX Runtime: every option and activation, and the state over many calls."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tflite_models import (
    Qdq,
    feeds,
    graph,
    invoke,
    lowered,
    reference,
    relative_error,
    single,
    steps_apart,
)

from edgekit.backends.tflite import why_not
from edgekit.core.target import load_target

TOLERANCE = 1e-5
STEPS, BATCH, INPUTS, HIDDEN = 4, 2, 3, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
RANDOM = np.random.default_rng(11)


def values(*shape):
    return (RANDOM.standard_normal(shape) * 0.5).astype(np.float32)


def recurrent(
    op, *, directions=1, bias=True, initial=(), lengths=None, peepholes=None, computed=False, **more
):
    """A node with every output; `initial` are operands (arrays or shapes) of the states."""
    rows = GATES[op] * HIDDEN
    w, r, b = (directions, rows, INPUTS), (directions, rows, HIDDEN), (directions, 2 * rows)
    operands = (
        [w, r, b if bias else None] if computed else [values(*w), values(*r), values(*b) if bias else None]
    )
    operands += [lengths, *initial]
    if peepholes is not None:
        operands += [None] * (6 - len(operands)) + [peepholes]
    direction = more.pop("direction", "bidirectional" if directions == 2 else "forward")
    outputs = 3 if op == "LSTM" else 2
    x = (STEPS, BATCH, INPUTS)
    return single(op, x, *operands, outputs=outputs, hidden_size=HIDDEN, direction=direction, **more)


STATE = (1, BATCH, HIDDEN)
LENGTHS = np.asarray([2, 4], np.int32)
CASES = {
    **{f"{op} forward": recurrent(op) for op in GATES},
    **{f"{op} without bias": recurrent(op, bias=False) for op in GATES},
    **{f"{op} reverse": recurrent(op, direction="reverse") for op in GATES},
    **{f"{op} both directions": recurrent(op, directions=2) for op in GATES},
    **{f"{op} initial state": recurrent(op, initial=[STATE] * (2 if op == "LSTM" else 1)) for op in GATES},
    **{
        f"{op} constant state both directions": recurrent(
            op, directions=2, initial=[values(2, BATCH, HIDDEN)]
        )
        for op in GATES
    },
    **{f"{op} computed weights": recurrent(op, directions=2, computed=True) for op in GATES},
    **{f"{op} lengths": recurrent(op, directions=2, lengths=LENGTHS) for op in GATES},
    **{f"{op} clip": recurrent(op, clip=0.3) for op in GATES},
    "GRU linear before reset": recurrent("GRU", linear_before_reset=1),
    "GRU linear before reset, state": recurrent(
        "GRU", directions=2, linear_before_reset=1, initial=[(2, 2, 5)]
    ),
    "GRU linear before reset, no bias": recurrent("GRU", bias=False, linear_before_reset=1, initial=[STATE]),
    "GRU linear before reset, computed weights": recurrent("GRU", linear_before_reset=1, computed=True),
    "LSTM peepholes": recurrent("LSTM", initial=[STATE, STATE], peepholes=values(1, 3 * HIDDEN)),
    "LSTM peepholes both directions": recurrent("LSTM", directions=2, peepholes=values(2, 3 * HIDDEN)),
    "LSTM coupled gates": recurrent("LSTM", initial=[STATE, STATE], input_forget=1),
    "LSTM memory only": recurrent("LSTM", initial=[None, STATE]),
}
NAMED = {
    "Relu": {},
    "Softsign": {},
    "Softplus": {},
    "Affine": {"activation_alpha": [0.8], "activation_beta": [0.1]},
    "LeakyRelu": {"activation_alpha": [0.3]},
    "ThresholdedRelu": {"activation_alpha": [0.2]},
    "ScaledTanh": {"activation_alpha": [0.9], "activation_beta": [1.2]},
    "HardSigmoid": {"activation_alpha": [0.3], "activation_beta": [0.4]},
    "Elu": {"activation_alpha": [0.7]},
}


def compare(model, given, folder, precision="float32", tolerance=TOLERANCE):
    ran = invoke(lowered(model, folder, precision), given)
    expected = reference(model, given)
    assert ran.outputs.keys() == expected.keys()
    for name, wanted in expected.items():
        assert relative_error(ran.outputs[name], wanted) <= tolerance, name
    return ran


@pytest.mark.parametrize("case", CASES)
def test_a_recurrent_operator_answers_like_onnx_runtime(case, tmp_path, need):
    need("ai_edge_litert")
    compare(CASES[case], feeds(CASES[case]), tmp_path)


@pytest.mark.parametrize("name", NAMED)
def test_every_activation_that_onnx_names_can_be_used(name, tmp_path, need):
    need("ai_edge_litert")
    model = recurrent("RNN", activations=[name], **NAMED[name])
    compare(model, feeds(model), tmp_path)


def test_parameters_of_activations_are_consumed_in_order(tmp_path, need):
    need("ai_edge_litert")
    model = recurrent(
        "LSTM",
        directions=2,
        activations=["HardSigmoid", "Tanh", "LeakyRelu", "Sigmoid", "ScaledTanh", "Elu"],
        activation_alpha=[0.3, 0.2, 0.9, 0.8],
        activation_beta=[0.4, 1.1],
    )
    compare(model, feeds(model), tmp_path)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_batches_first_are_the_transposed_sequence(op, directions, tmp_path, need):
    """ONNX Runtime has no layout 1: its answer to layout 0 is transposed."""
    need("ai_edge_litert")
    model = recurrent(op, directions=directions)
    x = feeds(model)["x0"]
    expected = reference(model, {"x0": x})
    swapped = onnx.ModelProto()
    swapped.CopyFrom(model)
    swapped.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    del swapped.graph.value_info[:]
    for value, axes in zip(
        [swapped.graph.input[0], *swapped.graph.output], [(1, 0, 2), (2, 0, 1, 3)], strict=False
    ):
        permute_shape(value, axes)
    for value in swapped.graph.output[1:]:
        permute_shape(value, (1, 0, 2))
    ran = invoke(lowered(swapped, tmp_path), {"x0": np.ascontiguousarray(x.transpose(1, 0, 2))})
    for name, wanted in expected.items():
        axes = (2, 0, 1, 3) if wanted.ndim == 4 else (1, 0, 2)
        assert relative_error(ran.outputs[name], wanted.transpose(axes)) <= TOLERANCE, name


def permute_shape(value, axes):
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    for dim, axis in zip(value.type.tensor_type.shape.dim, axes, strict=True):
        dim.dim_value = dims[axis]


def test_lengths_may_be_an_input(tmp_path, need):
    need("ai_edge_litert")
    model = recurrent("GRU", directions=2, lengths=((BATCH,), "int32"))
    compare(model, {**feeds(model), "x4": LENGTHS}, tmp_path)


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_the_state_stays_that_of_onnx_runtime_over_a_hundred_calls(op, tmp_path, need):
    """Nothing persists in the file: a call with the first state again gives the first answer again."""
    need("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    model = recurrent(op, initial=[STATE] * (2 if op == "LSTM" else 1))
    states = [i.name for i in model.graph.input[1:]]
    artifact = lowered(model, tmp_path)
    run = Interpreter(str(artifact.folder / "model.tflite"), num_threads=1).get_signature_runner()
    ours = theirs = {name: np.zeros(STATE, np.float32) for name in states}
    first = None
    for call in range(100):
        x = feeds(model, seed=call)["x0"]
        expected, got = reference(model, {"x0": x, **theirs}), run(x0=x, **ours)
        first = first or (x, ours, got["y1"])
        ours = {name: got[f"y{i + 1}"] for i, name in enumerate(states)}
        theirs = {name: expected[f"y{i + 1}"] for i, name in enumerate(states)}
        for name in states:
            assert relative_error(ours[name], theirs[name]) <= TOLERANCE
    np.testing.assert_array_equal(run(x0=first[0], **first[1])["y1"], first[2])


@pytest.mark.parametrize("op", GATES)
def test_half_precision_weights_are_stored_once_for_all_steps(op, tmp_path, need):
    need("ai_edge_litert")
    model = recurrent(op)
    single_precision = compare(model, feeds(model), tmp_path)
    half = compare(model, feeds(model), tmp_path, "float16", tolerance=2e-3)
    assert half.count("DEQUANTIZE") <= 4
    assert single_precision.count("FULLY_CONNECTED") == half.count("FULLY_CONNECTED")


@pytest.mark.parametrize("op", GATES)
def test_long_sequences_of_wide_layers_share_one_copy_of_the_weights(op, tmp_path, need):
    need("ai_edge_litert")
    hidden, steps = 96, 60
    rows = GATES[op] * hidden
    w, r, b = values(1, rows, 8) / 2, values(1, rows, hidden) / 4, values(1, 2 * rows)
    model = single(op, (steps, 1, 8), w, r, b, outputs=2, hidden_size=hidden)
    ran = compare(model, feeds(model), tmp_path)
    assert ran.count("DELEGATE") >= steps - 1  # the products between its parts run outside of it
    short = single(op, (4, 1, 8), w, r, b, outputs=2, hidden_size=hidden)
    assert compare(short, feeds(short), tmp_path / "short").count("DELEGATE") == 1


@pytest.mark.parametrize("op", GATES)
def test_between_quantizers_the_steps_are_exact_in_float(op, tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    x = b.input("x", (STEPS, BATCH, INPUTS))
    rows = GATES[op] * HIDDEN
    w, r = b.weight("w", (1, rows, INPUTS), axis=1), b.weight("r", (1, rows, HIDDEN), axis=1)
    model = b.build(b.quantized(b.add(op, [x, w, r], "y", hidden_size=HIDDEN), 1 / 128, 0))
    given = feeds(model)
    ran, expected = invoke(lowered(model, tmp_path, "int8"), given), reference(model, given)
    assert ran.dtypes_of("FULLY_CONNECTED") == {"float32"}
    for name, wanted in expected.items():
        assert steps_apart(ran.outputs[name], wanted, 1 / 128).max() <= 1


@pytest.mark.parametrize("op", GATES)
def test_no_gate_is_computed_that_nothing_reads(op, tmp_path, need):
    """At the first step there is no memory to forget: a tensor nobody reads trips tools that look at all."""
    need("ai_edge_litert")
    from ai_edge_litert import schema_py_generated as schema

    artifact = lowered(recurrent(op), tmp_path)
    graph = schema.Model.GetRootAs((artifact.folder / "model.tflite").read_bytes(), 0).Subgraphs(0)
    read = {int(i) for i in graph.OutputsAsNumpy()}
    for index in range(graph.OperatorsLength()):
        read |= {int(i) for i in graph.Operators(index).InputsAsNumpy()}
    assert set(range(graph.TensorsLength())) <= read


def test_only_the_last_state_costs_no_concatenation(tmp_path, need):
    need("ai_edge_litert")
    model = recurrent("LSTM")
    model.graph.node[0].output[0] = ""
    del model.graph.output[0], model.graph.output[1]
    ran = compare(model, feeds(model), tmp_path)
    assert ran.count("CONCATENATION") == 0


@pytest.mark.parametrize(
    ("begin", "end", "concatenations"),
    [(STEPS - 1, STEPS, 0), (1, 2, 0), (1, 3, 1)],
    ids=["the last step", "one in the middle", "two"],
)
@pytest.mark.parametrize("op", GATES)
def test_one_step_taken_from_all_costs_no_concatenation(op, begin, end, concatenations, tmp_path, need):
    need("ai_edge_litert")
    model = recurrent(op)
    y = model.graph.output[0].name
    constants = {"begin": [begin], "end": [end], "axis": [0]}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in constants.items()
    )
    model.graph.node.append(helper.make_node("Slice", [y, "begin", "end", "axis"], ["taken"], name="take"))
    del model.graph.output[:]
    shape = (end - begin, 1, BATCH, HIDDEN)
    model.graph.output.append(helper.make_tensor_value_info("taken", onnx.TensorProto.FLOAT, shape))
    ran = compare(model, feeds(model), tmp_path)
    assert ran.count("CONCATENATION") == concatenations


@pytest.mark.parametrize("axis", [1, 2])
def test_a_part_of_a_concatenation_is_that_part_or_is_cut_out(axis, tmp_path, need):
    """Along axis 1 of (1, 3, 4) the parts lie one after the other, along axis 2 they do not."""
    need("ai_edge_litert")
    shapes = {"a": (1, 3, 4), "b": (1, 3, 4)}
    constants = {"begin": np.int64([3 if axis == 1 else 4]), "end": np.int64([99]), "axis": np.int64([axis])}
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["both"], axis=axis),
        helper.make_node("Slice", ["both", "begin", "end", "axis"], ["part"]),
        helper.make_node("Relu", ["part"], ["y"]),
    ]
    model = graph(nodes, shapes, ["y"], constants)
    ran = compare(model, feeds(model), tmp_path)
    assert ran.count("CONCATENATION") == axis - 1


REFUSED = {
    "a long sequence": (
        single("GRU", (2000, 1, 3), values(1, 15, 3), values(1, 15, 5), outputs=2, hidden_size=5),
        "2000 steps",
    ),
    "an unknown activation": (recurrent("RNN", activations=["Swish"]), "'Swish'"),
    "too few activations": (recurrent("LSTM", activations=["Sigmoid"]), "1 activations"),
    "lengths beyond the sequence": (recurrent("GRU", lengths=np.asarray([2, 9], np.int32)), "[2, 9]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_unrolled_is_refused_by_name(case, tmp_path):
    model, words = REFUSED[case]
    onnx.save(model, tmp_path / "model.onnx")
    (reason, *_) = why_not(tmp_path / "model.onnx", load_target("tflite"), "float32")
    assert reason.node == "node"
    assert words in reason.why


def test_a_gate_that_is_off_is_noticed(tmp_path, need):
    """The comparison itself: swapping two gates must not pass."""
    need("ai_edge_litert")
    model = CASES["LSTM forward"]
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    tensor = next(t for t in wrong.graph.initializer if t.name == "x1")
    w = np.frombuffer(tensor.raw_data, np.float32).reshape(4, HIDDEN, INPUTS)
    tensor.raw_data = w[[1, 0, 2, 3]].tobytes()
    given = feeds(model)
    got, expected = invoke(lowered(wrong, tmp_path), given).outputs, reference(model, given)
    assert relative_error(got["y0"], expected["y0"]) > 0.01

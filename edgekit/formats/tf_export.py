"""Export a source of TensorFlow's family to ONNX by tf2onnx: frozen, named, the same bytes every time."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgekit.core.large_tensors import save_hollow
from edgekit.core.model import ModelFormat
from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Reason, Unsupported
from edgekit.formats.tf_recurrent import recurrent_inputs
from edgekit.formats.tf_source import TfSource
from edgekit.formats.tf_weights import FrozenGraph, freeze, with_weights

__all__ = ["ENVIRONMENT", "Batch", "export_tf", "frozen", "frozen_graph", "load_tf"]

Batch = Literal["dynamic-batch", "static-batch"]
_MARKS = ("_XlaMustCompile", "_noinline")
_OPSET = 18  # the newest that tf2onnx writes

# Of the process that reads: one order for sets of strings, Keras on TensorFlow, no GPU, few words.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def load_tf(kind: ModelFormat, options: SourceOptions, batch: Batch) -> TfSource:
    """The source named by `options`, loaded, to be exported with `batch`.

    Raises what `load_keras` and `load_saved_model` raise.
    """
    if kind == "keras":
        from edgekit.formats.keras_load import load_keras

        # With a fixed batch tf2onnx finds no LSTM: its steps one by one are what is left.
        return load_keras(options, keep_whole=batch == "dynamic-batch")
    from edgekit.formats.savedmodel_load import load_saved_model

    return load_saved_model(options)


def export_tf(source: TfSource, options: SourceOptions, batch: Batch, path: Path) -> None:
    """Write the source as an ONNX file with its own names.

    With "dynamic-batch" a first dimension that the model leaves open stays open (Keras' LSTM is then one LSTM
    node, with a fixed batch a Loop); with "static-batch" every dimension is fixed. Raises `UsageError` for
    shapes that do not fit, `Unsupported` where TensorFlow or tf2onnx fails.
    """
    tf = require("tensorflow")
    require("tf2onnx", needed_for="reading TensorFlow models")
    specs = source.with_shapes(options.shapes, batch=batch == "dynamic-batch", where=options.model)
    names: list[str] = []

    @tf.function(input_signature=list(specs.values()), autograph=False)  # type: ignore[untyped-decorator]
    def network(*tensors: Any) -> Any:
        answer = source.call(dict(zip(specs, tensors, strict=True)))
        names[:] = answer
        # An output may be an input, or the same tensor twice: each gets a node of its own to be named after.
        return [tf.identity(value, name=f"output_{i}") for i, value in enumerate(answer.values())]

    try:
        graph = frozen_graph(network)
        renamed = dict(zip([*graph.inputs, *graph.outputs], [*specs, *names], strict=True))
        weights = dict(graph.weights)
        model = _converted(graph, weights, renamed)
    except Exception as err:  # TensorFlow and tf2onnx raise anything: here it becomes a typed refusal
        traceback.print_exc()
        why = f"{type(err).__name__}: {' '.join(str(err).split())[:400]}"
        raise Unsupported("tf2onnx failed", where=options.model, reasons=[Reason(why=why)]) from err
    save_hollow(with_weights(model, weights), path, weights)


def frozen(network: Any) -> Any:
    """A traced tf.function as one graph, its variables constants, the functions it calls inlined."""
    function = _inlined(network.get_concrete_function())
    graph_def = function.graph.as_graph_def()
    if not _let_inline(graph_def):
        return function
    rebuild = require("tensorflow.python.eager.wrap_function").function_from_graph_def
    return _inlined(rebuild(graph_def, [t.name for t in function.inputs], [t.name for t in function.outputs]))


def frozen_graph(network: Any) -> FrozenGraph:
    """As `frozen`, but as a GraphDef, without the weights that are large (see `freeze`)."""
    graph = freeze(network.get_concrete_function())
    if not _let_inline(graph.graph_def):
        return graph
    rebuild = require("tensorflow.python.eager.wrap_function").function_from_graph_def
    inputs = [*graph.inputs, *(f"{name}:0" for name in graph.weights)]
    inlined = _inlined(rebuild(graph.graph_def, inputs, graph.outputs))
    outputs = [t.name for t in inlined.outputs]
    return replace(graph, graph_def=inlined.graph.as_graph_def(), outputs=outputs)


def _inlined(function: Any) -> Any:
    convert = require("tensorflow.python.framework.convert_to_constants")
    return convert.convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    )


def _let_inline(graph_def: Any) -> bool:
    """Unmark the functions that XLA is to compile (Keras' grouped convolution): whether there were any.

    TensorFlow does not inline them, and tf2onnx would leave their calls in the graph.
    """
    functions = graph_def.library.function
    nodes = [*graph_def.node, *(n for f in functions for n in f.node_def)]
    marked = [item for item in (*nodes, *functions) if any(mark in item.attr for mark in _MARKS)]
    if not marked:
        return False
    for item in marked:
        for mark in _MARKS:
            item.attr.pop(mark, None)
    # TensorFlow knows functions of these names already, with the marks.
    names = {f.signature.name: f"unmarked_{f.signature.name}" for f in functions}
    for function in functions:
        function.signature.name = names[function.signature.name]
    for node in nodes:
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for called in (*([value.func] if value.HasField("func") else []), *value.list.func):
                called.name = names.get(called.name, called.name)
    return True


def _converted(graph: FrozenGraph, weights: dict[str, Any], renamed: dict[str, str]) -> Any:
    """The graph as an ONNX model whose large weights are inputs; those that are made join `weights`."""
    convert = require("tf2onnx.convert")
    inputs = {f"{name}:0": name for name in graph.weights}
    with _repeatable(), recurrent_inputs(weights):
        model, _ = convert.from_graph_def(
            graph.graph_def,
            input_names=[*graph.inputs, *inputs],
            output_names=graph.outputs,
            opset=_OPSET,
            tensors_to_rename={**inputs, **renamed},
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    return model


def _erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Erfc, which ONNX has not, as 1 - Erf; and erfc(-x), of which Keras makes GELU, as 1 + erf(x).

    Erf is odd, so the second is the first, in the form in which GELU is usually written.
    """
    numpy = require("numpy")
    dtype, shape = ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
    as_numpy = require("tf2onnx.utils").map_onnx_to_numpy_type(dtype)
    one = ctx.make_const(f"{name}__one", numpy.ones((), as_numpy)).output[0]
    source, target = node.input[0], node.output[0]
    ctx.remove_node(node.name)
    made = {"dtypes": [dtype], "shapes": [shape]}
    negated = _negated(ctx, source, name, made)
    erf = ctx.make_node("Erf", [negated or source], name=f"{name}__erf", **made)
    sign = "Add" if negated else "Sub"
    ctx.make_node(sign, [one, erf.output[0]], outputs=[target], name=name, **made)


def _negated(ctx: Any, source: str, name: str, made: dict[str, Any]) -> str:
    """A tensor that is -`source` where `source` is -x or -x * y; else ""."""
    node = ctx.get_node_by_output(source)
    if node.type == "Neg":
        return str(node.input[0])
    if node.type == "Mul":
        for place in (0, 1):
            factor = ctx.get_node_by_output(node.input[place])
            if factor is not None and factor.type == "Neg":
                product = [factor.input[0], node.input[1 - place]]
                return str(ctx.make_node("Mul", product, name=f"{name}__mul", **made).output[0])
    return ""


@contextmanager
def _repeatable() -> Iterator[None]:
    """Nodes of tf2onnx's graph hash by the order they were made in, not by their address in memory.

    It keeps them in sets, whose order decides names and order in the file.
    """
    node = require("tf2onnx.graph").Node
    before, plain = node.__init__, node.__hash__
    serial = itertools.count()

    def numbered(self: Any, *args: Any, **kwargs: Any) -> None:
        self.edgekit_serial = next(serial)
        before(self, *args, **kwargs)

    node.__init__, node.__hash__ = numbered, lambda self: self.edgekit_serial
    try:
        yield
    finally:
        node.__init__, node.__hash__ = before, plain

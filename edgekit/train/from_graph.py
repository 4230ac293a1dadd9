"""Any canonical ONNX graph as one differentiable PyTorch module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.core.model import CANONICAL_OPSET, Model
from edgekit.core.packages import require
from edgekit.errors import Reason, Unsupported, UsageError
from edgekit.train.batch import free_batch
from edgekit.train.module_graph import Emitter, ModuleGraph, Op
from edgekit.train.operators import OPERATORS

__all__ = ["trainable"]


def trainable(model: Model | str | Path, *, learned: Collection[str] = ()) -> Any:
    """The graph as a `torch.fx.GraphModule`, in eval mode, that takes and gives what the graph does.

    `model` is what `edgekit.open` gives (its form with BatchNormalization in place is taken), or the path of
    a canonical ONNX file. Inputs are positional, in the graph's order; one output is a tensor, several a
    tuple. Nodes that hold weights are ordinary modules (Conv1d to 3d, ConvTranspose, Linear, BatchNorm,
    LayerNorm, InstanceNorm, GroupNorm, PReLU, LSTM, GRU, RNN, Embedding), so that other PyTorch tools work
    on it; all else are functions. Biases added right behind a matrix product are parameters, too. Other
    constants are buffers, which stay as they are: `learned` names those to train as well (a table of
    positions, say).

    A weight that several nodes read is one parameter; but initial values that are all alike (zeros, ones)
    are one initializer only because exporters merge equal constants: each node has its own. The first axis
    may have any size where two runs and a joint one agree at every node (shapes that an exporter wrote with a
    batch of 1 are opened); else a larger batch is refused, with the node at fault. In training mode
    BatchNorm takes the statistics of the batch.

    `meta` of the result holds "inputs" and "outputs" (names), "layers" (`Layer`: which node is which
    submodule), "batch" ("" where it is free, else why not) and "source" (the file). `write_back` puts
    weights back into the file's graph.

    Raises `Unsupported` with every node that has no trainable form, `UsageError` for a file that is not
    canonical, `MissingPackage` without torch.
    """
    torch = require("torch", needed_for="training")
    path = model.unfolded if isinstance(model, Model) else Path(model)
    proto = load_canonical(path)
    builder = build(proto, learned)
    module = torch.fx.GraphModule(builder.root, builder.graph, "Network")
    module.eval()
    names = {"inputs": tuple(_inputs(proto)), "outputs": tuple(o.name for o in proto.graph.output)}
    module.meta.update(names, layers=tuple(builder.layers), source=str(path), batch="")
    return free_batch(module, path)


def load_canonical(path: Path) -> Any:
    """The ModelProto of a canonical file. Raises `UsageError` for one of another opset."""
    onnx = require("onnx", needed_for="training")
    from edgekit.formats.onnx_file import load_onnx

    if not path.is_file():
        raise UsageError("there is no such file", where=str(path))
    proto = load_onnx(path)
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    nameless = any(not n.name for n in proto.graph.node)
    if version != CANONICAL_OPSET or nameless or any(n.op_type == "Constant" for n in proto.graph.node):
        raise UsageError(
            f"the graph is not canonical (opset {version}; {CANONICAL_OPSET} with named nodes is needed)",
            where=str(path),
            hint="read the model first: trainable(edgekit.open(source, out=FOLDER))",
        )
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def build(
    proto: Any,
    learned: Collection[str] = (),
    *,
    more: Mapping[str, Emitter] | None = None,
    folded: Mapping[str, NDArray[Any]] | None = None,
) -> ModuleGraph:
    """The fx graph of a ModelProto, with every refusal collected.

    `more` are emitters of further operators, `folded` values that count as constants though nodes make them.
    """
    operators = {**OPERATORS, **(more or {})}
    builder = ModuleGraph(proto, learned)
    builder.constants.update(folded or {})
    unknown = sorted(set(learned) - set(builder.constants))
    if unknown:
        raise UsageError("learned: no such constants in the graph", problems=[repr(n) for n in unknown])
    for name in _inputs(proto):
        builder.values[name] = builder.graph.placeholder(builder.unique(name))
    reasons: list[Reason] = []
    for node in proto.graph.node:
        if node.output[0] in builder.constants:
            continue
        emit = operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        missing = [i for i in node.input if i and i not in builder.values and i not in builder.constants]
        if emit is None:
            reasons.append(Reason(
                node=f"{node.name} ({node.op_type})",
                why=f"{node.op_type} has no differentiable form here",
                hint="cut the model before it, and do what follows in your own code",
            ))  # fmt: skip
        elif not missing:  # behind a refusal there is nothing to build on
            try:
                made = emit(Op(builder, node))
            except Unsupported as err:
                reasons += err.reasons
                continue
            results = made if isinstance(made, list) else [made]
            builder.values.update({o: v for o, v in zip(node.output, results, strict=False) if o})
    if reasons:
        raise Unsupported("the graph has no trainable form", reasons=reasons)
    outputs = tuple(builder.value(o.name) for o in proto.graph.output)
    builder.graph.output(outputs if len(outputs) > 1 else outputs[0])
    builder.graph.lint()
    return builder


def _inputs(proto: Any) -> list[str]:
    held = {t.name for t in proto.graph.initializer}
    return [v.name for v in proto.graph.input if v.name not in held]

"""Read an ONNX file: parse, bring its external data in, and refuse what cannot be read faithfully."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.core.large_tensors import is_hollow, load_hollow, made_hollow, without_hollow
from edgekit.core.packages import require
from edgekit.errors import Reason, Unsupported, UsageError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["external_files", "load_onnx"]

OLDEST_OPSET = 6
_DAMAGED = "the file is truncated or damaged: copy or download it again, or export the model again"
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def load_onnx(path: Path, *, weights: Literal["loaded", "in the file"] = "loaded") -> ModelProto:
    """The model of an ONNX file, valid and complete; with "in the file" its large initializers are hollow.

    Raises `UsageError` for a file that is not ONNX, is truncated, lacks its external data, is refused by the
    ONNX checker or has an opset outside those edgekit reads; `Unsupported` names every node whose operator is
    not a standard one.
    """
    onnx = require("onnx", needed_for="reading ONNX files")
    model = _parse(path, weights)
    _check_opset(model, path)
    _bring_external_data(model, path, weights)
    _sort_nodes(model.graph)
    _check_operators(model, path)
    if any(not v.type.tensor_type.HasField("shape") for v in model.graph.output):
        # Runtimes take an output without a shape; the checker does not.
        model = onnx.shape_inference.infer_shapes(model)
    try:
        model = without_hollow(model, _checked)
    except onnx.checker.ValidationError as err:
        raise UsageError(
            f"the ONNX checker refuses this model: {_first_lines(err)}",
            where=str(path),
            hint="export it again, or correct what the checker names",
        ) from err
    return model


def _checked(model: ModelProto) -> ModelProto:
    require("onnx").checker.check_model(model, full_check=False)
    return model


def external_files(path: Path) -> list[str]:
    """The external data files an ONNX file refers to, sorted. Raises `UsageError` when one is missing."""
    tensors = _external_tensors(_parse(path, "in the file").graph, path)
    return [str(path.parent / name) for name in sorted(_locations(tensors, path))]


def _parse(path: Path, weights: str) -> ModelProto:
    onnx = require("onnx", needed_for="reading ONNX files")
    decode_error = require("google.protobuf.message").DecodeError
    model: ModelProto = onnx.ModelProto()
    try:
        if weights == "loaded":
            model.ParseFromString(path.read_bytes())
        else:
            load_hollow(path, model)
    except decode_error as err:
        raise UsageError(f"not a valid ONNX file: {err}", where=str(path), hint=_DAMAGED) from err
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise UsageError("not a valid ONNX file: it holds no graph", where=str(path), hint=_DAMAGED)
    return model


def _check_opset(model: ModelProto, path: Path) -> None:
    onnx = require("onnx")
    newest = onnx.defs.onnx_opset_version()
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise UsageError("the file names no ONNX opset", where=str(path), hint=_DAMAGED)
    if not OLDEST_OPSET <= versions[0] <= newest:
        raise UsageError(
            f"opset {versions[0]}, allowed: {OLDEST_OPSET} to {newest}",
            where=str(path),
            hint="export the model again with opset_version=20",
        )


def _check_operators(model: ModelProto, path: Path) -> None:
    onnx = require("onnx")
    local = {(f.domain, f.name) for f in model.functions}
    version = {o.domain: o.version for o in model.opset_import}
    opset = version.get("", version.get("ai.onnx", 0))
    reasons = []
    for node in [*_all_nodes(model.graph), *(n for f in model.functions for n in f.node)]:
        if (node.domain, node.op_type) in local:
            continue
        place = f"{node.name or (node.output[0] if node.output else '?')} ({node.op_type})"
        if node.domain not in _STANDARD_DOMAINS:
            why = f"{node.op_type} of the domain {node.domain!r} is no standard ONNX operator"
            reasons.append(Reason(node=place, why=why, hint="export with standard operators"))
        elif node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type, opset, ""):
            why = f"{node.op_type} is no ONNX operator of opset {opset}"
            reasons.append(Reason(node=place, why=why, hint="export with standard operators"))
    if reasons:
        message = "the model uses operators that edgekit cannot read"
        raise Unsupported(message, where=str(path), reasons=reasons)


def _bring_external_data(model: ModelProto, path: Path, weights: str) -> None:
    tensors = _external_tensors(model.graph, path)
    if not tensors:
        return
    _locations(tensors, path)
    onnx = require("onnx")
    try:
        leave = {id(t) for t in model.graph.initializer} if weights != "loaded" else set()
        for tensor in tensors:
            if id(tensor) not in leave or not _left(tensor, path):
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent.absolute()))
                tensor.ClearField("external_data")
                tensor.data_location = onnx.TensorProto.DEFAULT
    except (onnx.checker.ValidationError, ValueError, OSError) as err:
        raise UsageError(
            f"the external data cannot be read: {_first_lines(err)}", where=str(path), hint=_DAMAGED
        ) from err


def _left(tensor: TensorProto, path: Path) -> bool:
    """Let the tensor's data lie where it is, where that is plain to find."""
    entries = {e.key: e.value for e in tensor.external_data}
    file = path.parent / entries["location"]
    if file.is_symlink() or not tensor.name:
        return False
    offset = int(entries.get("offset", 0))
    return made_hollow(tensor, file, offset, int(entries.get("length", file.stat().st_size - offset)))


def _locations(tensors: list[TensorProto], path: Path) -> set[str]:
    names: set[str] = set()
    problems = []
    for tensor in tensors:
        entries = {e.key: e.value for e in tensor.external_data}
        name = entries.get("location", "")
        file = path.parent / name
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            problems.append(f"{tensor.name}: the location {name!r} is not beside the model")
        elif not file.is_file():
            problems.append(f"{tensor.name}: the file {name!r} is missing beside the model")
        elif file.stat().st_size < end:
            problems.append(f"{tensor.name}: {name!r} has {file.stat().st_size} bytes, {end} are needed")
        names.add(name)
    if problems:
        more = [f"and {len(problems) - 8} more"] if len(problems) > 8 else []
        raise UsageError(
            "the model's external data is missing or incomplete",
            where=str(path),
            problems=[*problems[:8], *more],
            hint="copy the data files into the model's folder, under their own names",
        )
    return names


def _external_tensors(graph: GraphProto, path: Path) -> list[TensorProto]:
    """Those whose data lies in another file than the model's own."""
    own = str(path.absolute())
    found = [t for t in graph.initializer if is_hollow(t) and own not in (e.value for e in t.external_data)]
    for node in graph.node:
        for attribute in node.attribute:
            found += [t for t in (attribute.t, *attribute.tensors) if is_hollow(t)]
            for inner in _subgraphs(attribute):
                found += _external_tensors(inner, path)
    return found


def _sort_nodes(graph: GraphProto) -> None:
    """Put the nodes in topological order, keeping the file's order where it may stay."""
    made = {name for node in graph.node for name in node.output if name}
    ready: set[str] = set()
    waiting = list(graph.node)
    ordered: list[NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in _reads(node)):
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            return  # a cycle: the checker names it
        waiting = later
    if any(a is not b for a, b in zip(graph.node, ordered, strict=True)):
        copies = [_copy(node) for node in ordered]
        del graph.node[:]
        graph.node.extend(copies)


def _copy(node: NodeProto) -> NodeProto:
    twin = type(node)()
    twin.CopyFrom(node)
    return twin


def _reads(node: NodeProto) -> set[str]:
    """Every name a node reads, those that its subgraphs take from outside included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in _subgraphs(attribute):
            for inner in graph.node:
                names |= _reads(inner)
            names |= {value.name for value in graph.output}
    return names


def _subgraphs(attribute: Any) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in _subgraphs(attribute):
                yield from _all_nodes(inner)


def _first_lines(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(err).__name__

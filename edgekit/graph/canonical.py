"""The sequence of passes that turns any model that was read into the canonical graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.core.codec import encode
from edgekit.core.files import atomic_file
from edgekit.core.large_tensors import hollow_copy, load_hollow, save_hollow, set_aside, without_hollow
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.packages import require
from edgekit.errors import Unsupported
from edgekit.graph import (
    convert_opset,
    dead_code,
    drop_identity,
    expand_newer,
    fix_shapes,
    fold_affine,
    fold_batchnorm,
    fold_constants,
    fuse_gemm,
    infer_shapes,
    inline_functions,
    lift_constants,
    name_nodes,
    random_operators,
    restore_gelu,
    restore_hardswish,
    restore_softmax,
    simplify,
    strip_metadata,
    unroll_loops,
)
from edgekit.graph.walk import dimensions

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

__all__ = ["finish", "prepare", "save_model", "signature_of"]

_RESTORE = (restore_gelu, restore_hardswish)
_LARGEST_BYTES = 2**31 - 1  # what one protobuf message can hold


def prepare(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[ModelProto, tuple[str, ...]]:
    """The model in the canonical opset with fixed inputs, before anything is simplified; and notes.

    Raises `UsageError` for shapes that are missing or do not fit, `Unsupported` for what has no canonical
    form.
    """
    model = inline_functions.apply(model).model
    fixed = fix_shapes.apply(model, shapes)
    model = strip_metadata.apply(fixed.model).model
    model = expand_newer.apply(model).model
    model = convert_opset.apply(model).model
    return _tidied(restore_softmax.apply(_tidied(model)).model), fixed.notes


def finish(source: str, out: str, simplified: bool, unfolded: str = "") -> dict[str, Any]:
    """The step: the passes that end the reading, from file to file; with `simplified`, onnxsim goes first.

    BatchNormalization is folded, everything named, every tensor's shape written down. Where there is
    BatchNormalization, the same graph with it (and with constant factors and offsets) in place goes to
    `unfolded`. Returns {"signature": as JSON, "notes": [...], "unfolded": whether that file was written}.
    Raises `Unsupported` for tensors whose shape is not fixed, naming their nodes, and `StepError` when
    onnxsim fails.
    """
    onnx = require("onnx")
    model = load_hollow(Path(source), onnx.ModelProto())
    notes: tuple[str, ...] = ()
    while unroll_loops.has_loops(model):  # a loop may hold another, and its turns what another depends on
        result = unroll_loops.apply(_tidied(fold_constants.apply(_tidied(model)).model))
        model = _tidied(result.model)  # weights that a Loop also gave back
        if not result.modified:
            break
    while fold_constants.fold_hollow(model.graph):
        model = set_aside(model, _free(Path(out)))
    model = fuse_gemm.apply(infer_shapes.apply(model).model).model
    if simplified:
        result = simplify.apply(model)
        model, notes = result.model, result.notes
    model = _tidied(fold_constants.apply(_tidied(model)).model)
    model = _tidied(fuse_gemm.apply(model).model)  # what only now is a product and a bias
    kept = unfolded and any(n.op_type == "BatchNormalization" and not n.domain for n in model.graph.node)
    if kept:
        _write(_rewritten(onnx.ModelProto.FromString(model.SerializeToString()), _RESTORE), unfolded)
    model = _rewritten(model, (fold_batchnorm, *_RESTORE, fold_affine, fold_batchnorm))
    _write(model, out)
    return {"signature": encode(signature_of(model)), "notes": list(notes), "unfolded": bool(kept)}


def _free(out: Path) -> Path:
    """A file beside `out` that is not there yet."""
    return next(p for i in range(1000) if not (p := out.with_name(f"{out.name}.{i}.weights")).exists())


def _rewritten(model: ModelProto, passes: Iterable[ModuleType]) -> ModelProto:
    for one in passes:
        model = one.apply(model).model
    return _tidied(strip_metadata.apply(model).model)


def _write(model: ModelProto, out: str) -> None:
    if random := random_operators.random_nodes(model):
        raise Unsupported("the model draws random numbers", reasons=random[:12])
    reasons = infer_shapes.unknown_shapes(model)
    if reasons:
        raise Unsupported(
            "some tensors have no fixed shape",
            reasons=reasons[:12],
            hint="end the model before the first of them, and do what follows in your own code",
        )
    without_hollow(hollow_copy(model), _checked)
    save_model(model, Path(out))


def _checked(model: ModelProto) -> ModelProto:
    require("onnx").checker.check_model(model, full_check=True)
    return model


def save_model(model: ModelProto, path: Path) -> None:
    """Write the model in one file, the same bytes for the same model. Raises `Unsupported` above 2 GB."""
    with atomic_file(path) as temporary:
        save_hollow(model, temporary)
        if (size := temporary.stat().st_size) > _LARGEST_BYTES:
            raise Unsupported(
                f"the graph takes {size / 2**30:.1f} GiB; one ONNX file holds at most 2",
                hint="edgekit is for models that fit small devices: prune or split this one first",
            )


def signature_of(model: ModelProto) -> Signature:
    """The named inputs and outputs of a graph. Raises `Unsupported` for one that is no tensor."""
    return Signature(
        inputs=tuple(_spec(v) for v in model.graph.input), outputs=tuple(_spec(v) for v in model.graph.output)
    )


def _spec(value: ValueInfoProto) -> TensorSpec:
    onnx = require("onnx")
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        word = kind.removesuffix("_type") if kind else "value of no type"
        raise Unsupported(f"{value.name!r} is a {word}, a tensor is needed")
    element = value.type.tensor_type.elem_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    if element == onnx.TensorProto.STRING:
        raise Unsupported(f"{value.name!r} holds text, not numbers", hint="cut the text part off the model")
    return TensorSpec(name=value.name, dtype=dtype.name, shape=dimensions(value) or ())


def _tidied(model: ModelProto) -> ModelProto:
    for one in (lift_constants, drop_identity, dead_code, name_nodes, infer_shapes):
        model = one.apply(model).model
    return model

"""Resize: LiteRT's own kernels where they compute what ONNX says, else its definition.

Nearest picks elements by constant indices; everything else is linear and separable, so each dimension is a
product with a constant matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor
from edgekit.backends.tflite.lowering.compose import linear, select
from edgekit.backends.tflite.lowering.moving import first_quantized, picked
from edgekit.backends.tflite.lowering.sampling import Axis, coordinates, interpolation, nearest
from edgekit.backends.tflite.op import Op, Refusal, inverse
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS"]

_LINEAR = {"half_pixel": (False, True), "align_corners": (True, False), "asymmetric": (False, False)}
_NEAREST = {
    ("asymmetric", "floor"): (False, False),
    ("half_pixel", "round_prefer_ceil"): (False, True),
    ("align_corners", "round_prefer_ceil"): (True, False),
}
Shape = tuple[int, ...]


def resize(op: Op) -> None:
    x, out = op.input(), op.out_shape()
    axes = _resized(op, x.shape, out)
    found = _builtin(op.node.attributes, x.shape, out) if _plain(axes) else None
    if found is not None:
        kind, (align, half) = found
        last = op.transpose(x, (0, 2, 3, 1))
        shape = (out[0], out[2], out[3], out[1])
        y = op.move(kind, last, shape, op.indices(out[2:]), align_corners=align, half_pixel_centers=half)
        op.result(op.transpose(y, (0, 3, 1, 2)))
        return
    where = _where(op.node.attributes)
    y = x
    for number, axis in axes.items():
        if op.attr("mode", "nearest") == "nearest":
            y = picked(op, y, number, nearest(axis, where, op.attr("nearest_mode", "round_prefer_floor")))
        else:
            y = _product(op, y, number, _matrix(op, axis, where))
    op.result(_extrapolated(op, y, axes) if where == "tf_crop_and_resize" else y)


def _where(attributes: Mapping[str, Any]) -> str:
    return str(attributes.get("coordinate_transformation_mode", "half_pixel"))


def _resized(op: Op, shape: Shape, out: Shape) -> dict[int, Axis]:
    """The dimensions that change, or whose coordinates do."""
    rank = len(shape)
    listed = [axis % rank for axis in op.attr("axes", tuple(range(rank)))]
    scales = _scales(op, listed, shape, out)
    roi = np.asarray([0.0] * len(listed) + [1.0] * len(listed))
    if _where(op.node.attributes) == "tf_crop_and_resize":
        given = op.constant(1)
        if given is None or given.size != 2 * len(listed):
            raise Refusal("Resize with a computed region", "make roi constant")
        roi = given.astype(np.float64)
    found = {}
    for place, axis in enumerate(listed):
        start, end = float(roi[place]), float(roi[place + len(listed)])
        part = Axis(size=shape[axis], out=out[axis], scale=scales[place], start=start, end=end)
        if part.size != part.out or part.scale != 1 or (start, end) != (0, 1):
            found[axis] = part
    return found


def _scales(op: Op, listed: list[int], shape: Shape, out: Shape) -> list[float]:
    """The scale ONNX computes coordinates with, for each listed axis."""
    ratios = [out[axis] / shape[axis] for axis in listed]
    if op.has(3) or not op.has(2):
        policy = op.attr("keep_aspect_ratio_policy", "stretch")
        if policy == "stretch":
            return ratios
        wanted = [size / shape[axis] for size, axis in zip(op.ints(3), listed, strict=True)]
        return [min(wanted) if policy == "not_larger" else max(wanted)] * len(listed)
    given = op.constant(2)
    if given is None:
        raise Refusal("Resize with computed scales", "make them constant, or give sizes")
    scales = [float(scale) for scale in given]
    if len(scales) == 0:  # opset 13 and older: an empty tensor where sizes follow
        return ratios
    exact = all(abs(r - s) <= 1e-6 * r for r, s in zip(ratios, scales, strict=True))
    if not exact and _where(op.node.attributes) == "align_corners":
        raise Refusal("Resize of aligned corners by scales that are not the ratio", "give sizes instead")
    return ratios if exact else scales


def _plain(axes: Mapping[int, Axis]) -> bool:
    """Height and width, by the ratio of their sizes."""
    return all(axis in (2, 3) and part.scale == part.out / part.size for axis, part in axes.items())


def _builtin(attributes: Mapping[str, Any], shape: Shape, out: Shape) -> tuple[str, tuple[bool, bool]] | None:
    """The kernel and its (align_corners, half_pixel_centers), where it computes the same."""
    mode, where = attributes.get("mode", "nearest"), _where(attributes)
    if len(shape) != 4 or attributes.get("antialias", 0) or attributes.get("exclude_outside", 0):
        return None
    if where in ("pytorch_half_pixel", "half_pixel_symmetric") and min(out[2:]) > 1:
        where = "half_pixel"
    if mode == "linear" and where in _LINEAR:
        return "RESIZE_BILINEAR", _LINEAR[where]
    if mode != "nearest":
        return None
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    whole = all(o % i == 0 for o, i in zip(out[2:], shape[2:], strict=True))
    if where == "half_pixel" and rounding == "round_prefer_floor" and whole:
        rounding = "round_prefer_ceil"
    flags = _NEAREST.get((where, rounding))
    return None if flags is None else ("RESIZE_NEAREST_NEIGHBOR", flags)


def _matrix(op: Op, axis: Axis, where: str) -> Array:
    return interpolation(
        axis,
        where,
        mode=op.attr("mode", "linear"),
        cubic=op.attr("cubic_coeff_a", -0.75),
        antialias=bool(op.attr("antialias", 0)),
        exclude_outside=bool(op.attr("exclude_outside", 0)),
    )


def _product(op: Op, x: Tensor, axis: int, matrix: Array) -> Tensor:
    """`matrix` (out, size) times `x` along one axis."""
    perm = (*(i for i in range(len(x.shape)) if i != axis), axis)
    y = linear(op, op.transpose(x, perm), op.const(matrix))
    return op.transpose(y, inverse(perm))


def _extrapolated(op: Op, y: Tensor, axes: Mapping[int, Axis]) -> Tensor:
    """A fixed value where any coordinate lies outside the input."""
    inside = np.ones((1,) * len(y.shape), bool)
    for number, axis in axes.items():
        x = coordinates(axis, "tf_crop_and_resize")
        shape = [-1 if d == number else 1 for d in range(len(y.shape))]
        inside = inside & ((x >= 0) & (x <= axis.size - 1)).reshape(shape)
    if np.all(inside):
        return y
    value = np.asarray(op.attr("extrapolation_value", 0.0), np.float32)
    return select(op, op.const(inside), y, op.const(value))


def _rule(site: Site) -> bool:
    """Nearest picks codes; linear computes new ones, so it needs a quantizer of the same scale behind it.

    The int16 kernel interpolates with fractions of 10 bits: tens of steps off.
    """
    attributes, shapes = site.node.attributes, site.graph.shapes
    if not first_quantized(site) or _where(attributes) == "tf_crop_and_resize":
        return False
    if attributes.get("mode", "nearest") == "nearest":
        return True
    if site.codes == "int16":
        return False
    shape, out = shapes[site.node.inputs[0]], shapes[site.node.outputs[0]]
    scales = site.constant(2)
    ratios = [o / i for o, i in zip(out, shape, strict=True)]
    if (
        scales is not None
        and scales.size
        and (scales.size != len(ratios) or np.any(abs(scales - ratios) > 1e-6))
    ):
        return False
    same = shape[:2] == out[:2] and "keep_aspect_ratio_policy" not in attributes
    return same and site.output == site.inputs[0] and _builtin(attributes, shape, out) is not None


OPERATORS = {"Resize": Lowering(emit=resize, integer=_rule, moves=True)}

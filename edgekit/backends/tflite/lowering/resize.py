"""Resize, in the modes where LiteRT computes exactly what ONNX says."""

from __future__ import annotations

from edgekit.backends.tflite.lowering.moving import first_quantized
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS"]

_LINEAR = {"half_pixel": (False, True), "align_corners": (True, False), "asymmetric": (False, False)}
_HINT = "linear: half_pixel, align_corners or asymmetric; nearest: asymmetric + floor, or whole factors"


def resize(op: Op) -> None:
    x, out = op.input(), op.out_shape()
    if len(x.shape) != 4 or x.shape[:2] != out[:2]:
        raise Refusal(
            "Resize of something else than height and width", "only (N, C, H, W) over H and W is lowered"
        )
    mode = op.attr("mode", "nearest")
    if op.attr("antialias", 0) or op.attr("exclude_outside", 0) or mode not in ("nearest", "linear"):
        raise Refusal(f"Resize with mode {mode!r}, antialias or exclude_outside", _HINT)
    where = op.attr("coordinate_transformation_mode", "half_pixel")
    if op.has(2) and (scales := op.constant(2)) is not None and scales.size == 4:
        ratios = [o / i for o, i in zip(out, x.shape, strict=True)]
        if any(abs(r - s) > 1e-6 * r for r, s in zip(ratios, scales, strict=True)):
            raise Refusal("Resize scales that are not the ratio of the sizes", "give sizes instead of scales")
    if where == "pytorch_half_pixel" and min(out[2:]) > 1:
        where = "half_pixel"
    kind, (align, half) = _kind(op, mode, where, x.shape, out)
    last = op.transpose(x, (0, 2, 3, 1))
    shape = (out[0], out[2], out[3], out[1])
    y = op.move(kind, last, shape, op.indices(out[2:]), align_corners=align, half_pixel_centers=half)
    op.result(op.transpose(y, (0, 3, 1, 2)))


def _kind(
    op: Op, mode: str, where: str, shape: tuple[int, ...], out: tuple[int, ...]
) -> tuple[str, tuple[bool, bool]]:
    """The kernel and its (align_corners, half_pixel_centers)."""
    if mode == "linear":
        if where not in _LINEAR:
            raise Refusal(f"linear Resize with {where!r}", _HINT)
        return "RESIZE_BILINEAR", _LINEAR[where]
    rounding = op.attr("nearest_mode", "round_prefer_floor")
    whole = all(o % i == 0 for o, i in zip(out[2:], shape[2:], strict=True))
    if where == "asymmetric" and rounding == "floor":
        return "RESIZE_NEAREST_NEIGHBOR", (False, False)
    if where == "half_pixel" and (
        rounding == "round_prefer_ceil" or (rounding == "round_prefer_floor" and whole)
    ):
        return "RESIZE_NEAREST_NEIGHBOR", (False, True)
    if where == "align_corners" and rounding == "round_prefer_ceil":
        return "RESIZE_NEAREST_NEIGHBOR", (True, False)
    raise Refusal(f"nearest Resize with {where!r} and {rounding!r} at this ratio", _HINT)


def _rule(site: Site) -> bool:
    """Nearest picks codes; linear computes new ones, so it needs a quantizer of the same scale behind it."""
    picks = site.node.attributes.get("mode", "nearest") == "nearest"
    return first_quantized(site) and (picks or site.output == site.inputs[0])


OPERATORS = {"Resize": Lowering(emit=resize, integer=_rule, moves=True)}

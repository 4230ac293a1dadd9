"""Fake quantizers: what the integer kernels compute, in floats, with gradients.

Rounding lets gradients through (Bengio, Leonard & Courville 2013); a learned step size gets the gradient of
Esser et al., "Learned Step Size Quantization" (2020), equation 3: codes - x / scale within the range, the
bound beyond it. A scale is base * exp(delta): it starts bit by bit as `base`, stays above 0, and one learning
rate fits scales of every size.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from edgekit.core.packages import require
from edgekit.quantize.algorithms.pair_aware import PAIR_LIMIT

__all__ = ["activation_quantizer", "bias_quantizer", "capped", "weight_quantizer"]

_LARGEST_BIAS_CODE = 2.0**30


@cache
def _rounded() -> Any:
    """The function (x, scale, low, high, paired axis or -1) -> scale * codes, with its gradients."""
    torch = require("torch")

    class Rounded(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(context: Any, x: Any, scale: Any, low: float, high: float, paired: int) -> Any:
            places = x / scale
            codes = places.round().clamp_(low, high)
            if paired >= 0:
                codes = capped(codes, paired)
            context.save_for_backward(places, codes, scale)
            context.low, context.high = low, high
            return codes * scale

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            places, codes, scale = context.saved_tensors
            inside = (places >= context.low - 0.5) & (places <= context.high + 0.5)
            of_scale = None
            if context.needs_input_grad[1]:
                of_scale = (gradient * (codes - places * inside)).sum_to_size(scale.shape)
            return gradient * inside, of_scale, None, None, None

    return Rounded


def capped(codes: Any, axis: int) -> Any:
    """Codes whose same-sign neighbours (2k, 2k+1) along an axis sum to `PAIR_LIMIT` at most.

    What `edgekit.quantize.algorithms.pair_aware.cap_pairs` does, for tensors: both give up half the excess.
    """
    torch = require("torch")
    moved = codes.movedim(axis, 0)
    even, odd = moved[0::2], moved[1::2]
    excess = ((even + odd).abs() - PAIR_LIMIT).clamp_min(0.0) * (even.sign() == odd.sign())
    first = (excess / 2).ceil()
    pairs = torch.stack([even - even.sign() * first, odd - odd.sign() * (excess - first)], 1)
    return pairs.reshape(moved.shape).movedim(0, axis)


@cache
def _classes() -> tuple[Any, Any, Any]:
    torch = require("torch")
    nn = torch.nn

    class ActivationQuantizer(nn.Module):  # type: ignore[misc, name-defined]
        """codes = round(x / scale) + zero_point within [low, high]; gives scale * (codes - zero_point)."""

        def __init__(self, base: float, low: int, high: int, largest: float, learned: bool) -> None:
            super().__init__()
            self.register_buffer("base", torch.tensor(base, dtype=torch.float32))
            self.delta = nn.Parameter(torch.zeros(()), requires_grad=learned)
            self.low, self.high, self.largest, self.enabled = float(low), float(high), largest, True
            self.sums: tuple[Any, ...] = ()  # of an integer sum: quantizers of input and weight, channel axis

        @property
        def scale(self) -> Any:
            """A float32 value, as in the file, whatever the module computes in."""
            return (self.base.float() * self.delta.float().exp()).clamp_max(self.largest)

        def forward(self, x: Any) -> Any:
            if not self.enabled:
                return x
            if self.sums and not self.training:
                return self.as_kernels(x)
            return _rounded().apply(x, self.scale.to(x.dtype), self.low, self.high, -1)

        def as_kernels(self, x: Any) -> Any:
            """x, rounded as integer kernels round: float32(sum) * float32(multiplier), half to even.

            One in a million values lies so near to the edge of two codes that the float32 product decides
            (ONNX Runtime, XNNPACK; both multiply the scales before they divide).
            """
            source, weight, axis = self.sums
            step = (source.scale * weight.scale).float()
            shape = [1] * x.dim()
            shape[axis] = -1
            step = step.reshape(shape) if step.dim() else step
            sums = (x.double() / step.double()).round().float()
            codes = (sums * (step / self.scale)).round().clamp(self.low, self.high)
            return codes.to(x.dtype) * self.scale.to(x.dtype)

    class WeightQuantizer(nn.Module):  # type: ignore[misc, name-defined]
        """Symmetric codes of a weight, within +-limit, one scale an index of `axis` (None: one in all)."""

        def __init__(
            self, weight: Any, base: Any, axis: int | None, limit: int, paired: int, learned: bool
        ) -> None:
            super().__init__()
            self.weight = weight
            self.register_buffer("base", base)
            self.delta = nn.Parameter(torch.zeros(base.shape), requires_grad=learned)
            self.axis, self.limit, self.paired, self.enabled = axis, float(limit), paired, True

        @property
        def scale(self) -> Any:
            """One value an index of `axis`; float32, as in the file."""
            return self.base.float() * self.delta.float().exp()

        def codes(self) -> Any:
            """The integers, as floats."""
            codes = (self.weight.float() / self._shaped()).round().clamp(-self.limit, self.limit)
            return codes if self.paired < 0 else capped(codes, self.paired)

        def _shaped(self) -> Any:
            if self.axis is None or not self.base.dim():
                return self.scale
            shape = [1] * self.weight.dim()
            shape[self.axis] = -1
            return self.scale.reshape(shape)

        def forward(self) -> Any:
            if not self.enabled:
                return self.weight
            if not self.training:
                return self.codes().to(self.weight.dtype) * self._shaped().to(self.weight.dtype)
            return _rounded().apply(self.weight, self._shaped(), -self.limit, self.limit, self.paired)

    class BiasQuantizer(nn.Module):  # type: ignore[misc, name-defined]
        """An int32 bias at the scale of its sum: that of the input times that of the weight."""

        def __init__(self, bias: Any, activation: Any, weight: Any) -> None:
            super().__init__()
            self.bias = bias
            self.sources = (activation, weight)  # a tuple: they belong to the graph, not to this module
            self.enabled = True

        @property
        def scale(self) -> Any:
            activation, weight = self.sources
            return (activation.scale * weight.scale).detach().expand(self.bias.shape)

        def codes(self) -> Any:
            """The integers, as float64."""
            places = self.bias.detach().double() / self.scale.double()
            return places.round().clamp(-_LARGEST_BIAS_CODE, _LARGEST_BIAS_CODE)

        def forward(self) -> Any:
            if not self.enabled:
                return self.bias
            coded = (self.codes() * self.scale.double()).to(self.bias.dtype)
            return self.bias + (coded - self.bias).detach()

    return ActivationQuantizer, WeightQuantizer, BiasQuantizer


def activation_quantizer(base: float, low: int, high: int, *, largest: float, learned: bool) -> Any:
    """A fake quantizer of an activation; `low` and `high` are codes less the zero point."""
    return _classes()[0](base, low, high, largest, learned)


def weight_quantizer(
    weight: Any, base: Any, *, axis: int | None, limit: int, paired: int, learned: bool
) -> Any:
    """A fake quantizer that holds the parameter `weight`; of axis `paired` (-1: of none) pairs are capped."""
    return _classes()[1](weight, base, axis, limit, paired, learned)


def bias_quantizer(bias: Any, activation: Any, weight: Any) -> Any:
    """A fake quantizer that holds the parameter `bias`, at the product of two quantizers' scales."""
    return _classes()[2](bias, activation, weight)

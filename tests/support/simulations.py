"""Simulations of small networks under a target's int8 policy, for the tests of sensitivity and mixtures."""

from __future__ import annotations

from typing import Any

from quantize_models import pictures

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.simulate import Simulation

POLICY = load_target("onnxruntime-exact").int8
assert POLICY is not None


def simulation(model: Any, samples: Any = None) -> Simulation:
    """A network with an input `image` and an output `logits`, judged on the samples that calibrate it."""
    samples = samples or pictures(12)
    return Simulation(
        model,
        calibration=calibrate(model, samples, policies=[POLICY]),
        policy=POLICY,
        options=QuantizationOptions(),
        samples=samples,
        output="logits",
    )

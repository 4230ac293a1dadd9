"""What the steps that simulate are asked: a network, its calibration, and the samples that judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.recipe import DataSource, Metric, QuantizationOptions
from edgekit.core.target import Int8Policy
from edgekit.measure.metrics import ERROR_METRICS
from edgekit.quantize.calibrate import read_calibration
from edgekit.quantize.search_samples import SearchSamples, read_search_samples
from edgekit.quantize.simulate import Simulation

__all__ = ["Judged", "SimulationRequest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """By what answers are judged: at most `most` samples of `data`, the output `output`, a metric or ""."""

    data: DataSource
    signature: Signature
    output: str
    metric: Metric | Literal[""] = ""
    most: int

    @property
    def chosen_metric(self) -> Metric | None:
        """The metric; None where none is asked for."""
        return self.metric or None

    def samples(self, wanted: Callable[[int], bool]) -> SearchSamples:
        """The calls of the data whose number is `wanted`. Raises `UsageError` as `open_samples` does."""
        labelled = bool(self.metric) and self.metric not in ERROR_METRICS
        return read_search_samples(
            self.data, self.signature, need_labels=labelled, most=self.most, wanted=wanted
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationRequest:
    """A float ONNX file and its `Calibration` file, quantized by a policy; `wide`: of nodes in int16x8."""

    model: str
    calibration: str
    policy: Int8Policy
    wide: Int8Policy | None = None
    options: QuantizationOptions
    judged: Judged

    def open(self, wanted: Callable[[int], bool]) -> tuple[Simulation, SearchSamples]:
        """The simulation on the calls of the data whose number is `wanted`, and these samples."""
        onnx = require("onnx", needed_for="the simulation of quantized networks")
        samples = self.judged.samples(wanted)
        simulation = Simulation(
            onnx.load(self.model),
            calibration=read_calibration(Path(self.calibration)),
            policy=self.policy,
            wide=self.wide,
            options=self.options,
            samples=samples.inputs,
            output=self.judged.output,
        )
        return simulation, samples

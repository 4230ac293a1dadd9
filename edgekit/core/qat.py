"""What quantization-aware training is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.core.training import TrainingOptions

__all__ = ["QatOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QatOptions:
    """How int8 graphs are trained further after calibration.

    `training`: samples, loss, schedule. Without labels, or where the recipe distills, the float network is
    the teacher. Where it says no learning rate, rates are compared in short runs by the held-out samples.
    `ranges`: scales of activations and weights are trained with the weights ("learned", from what calibration
    found), stay as calibration found them ("observed"), or those of activations are all that is trained
    ("alone": the codes of weights stay). `start`: the float network that is calibrated and
    trained is first evened out between channels, where no float answer changes ("equalized", as
    `quantization.equalize` and `quantization.smooth` = 1 do), or only where [quantization] says so ("plain").
    """

    training: TrainingOptions
    ranges: Literal["learned", "observed", "alone"] = "learned"
    start: Literal["equalized", "plain"] = "equalized"

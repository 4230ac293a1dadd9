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
    the teacher. `ranges`: scales of activations and weights are trained with the weights ("learned", from
    what calibration found), or stay as calibration found them ("observed").
    """

    training: TrainingOptions
    ranges: Literal["learned", "observed"] = "learned"

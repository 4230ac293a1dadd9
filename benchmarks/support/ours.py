"""edgekit's own settings in the comparison of quantizers."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.core.recipe import CalibrationOptions, DataSource, QuantizationOptions

__all__ = ["SETTINGS"]

Chosen = tuple[CalibrationOptions, QuantizationOptions]


def default(data: DataSource) -> Chosen:
    """What `edgekit convert` does."""
    return CalibrationOptions(data=data), QuantizationOptions()


def best(data: DataSource) -> Chosen:
    """Everything that may buy accuracy, at the price of minutes."""
    options = QuantizationOptions(rounding="learned")
    return CalibrationOptions(data=data, method="auto"), options


SETTINGS: dict[str, Callable[[DataSource], Chosen]] = {"default": default, "best": best}

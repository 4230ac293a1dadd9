"""The options of `edgekit convert` about the algorithms of quantization."""

from __future__ import annotations

import argparse
from typing import Any

from edgekit.cli.options import choice, number

__all__ = ["add_algorithms", "algorithms_of"]

_ROUNDING = ("auto", "nearest", "learned")
_BIAS = ("auto", "none", "analytic", "empirical")


def add_algorithms(parser: argparse.ArgumentParser) -> None:
    """--rounding, --equalize, --smooth, --bias-correction, --weight-clipping, --no-leave-float."""
    group = parser.add_argument_group("algorithms (int8 and int16x8)")
    group.add_argument(
        "--rounding", metavar="|".join(_ROUNDING), type=choice(_ROUNDING),
        help="learned: codes of weights by the error they make on the calibration samples; auto (the "
        "default): where that helps on samples held out, from 32 of them on",
    )  # fmt: skip
    group.add_argument(
        "--equalize", action="store_true",
        help="even out channels of unequal scale between layers, where that changes no answer",
    )  # fmt: skip
    group.add_argument(
        "--smooth", metavar="SHARE", type=number(float, at_least=0),
        help="move up to this share (0 to 1) of outliers behind LayerNormalization into the weights",
    )  # fmt: skip
    group.add_argument(
        "--bias-correction", metavar="|".join(_BIAS), type=choice(_BIAS),
        help="empirical: by running the quantized network, layer by layer; auto (the default): that where "
        "analytic correction leaves poor answers and samples held out agree, from 32 samples on",
    )  # fmt: skip
    group.add_argument(
        "--weight-clipping", metavar="max|mse", type=choice(("max", "mse")),
        help="the scale of weights by their maximum or by least squared error (default max)",
    )  # fmt: skip
    group.add_argument(
        "--no-leave-float", action="store_true",
        help="quantize spectra and normalizations too, which stay in float because 8 bits destroy them",
    )  # fmt: skip


def algorithms_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `QuantizationOptions` that the options set."""
    given = {
        "rounding": arguments.rounding,
        "equalize": arguments.equalize or None,
        "smooth": arguments.smooth,
        "bias_correction": arguments.bias_correction,
        "weight_clipping": arguments.weight_clipping,
        "leave_float": False if arguments.no_leave_float else None,
    }
    return {name: value for name, value in given.items() if value is not None}

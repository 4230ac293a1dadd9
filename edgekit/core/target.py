"""A target: what a device can do, as data. One TOML file in `targets/` is one target."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgekit.core.codec import decode_toml
from edgekit.core.files import data_folder
from edgekit.errors import UsageError, nearest

__all__ = [
    "CALIBRATED",
    "INTEGER",
    "PRECISIONS",
    "STORED",
    "FixedScale",
    "Int8Policy",
    "Precision",
    "Target",
    "WeightPolicy",
    "list_targets",
    "load_target",
]

Precision = Literal["float32", "float16", "int8", "int16x8", "dynamic-int8", "weight-int8", "weight-int4"]
PRECISIONS: tuple[Precision, ...] = (
    "float32",
    "float16",
    "int8",
    "int16x8",
    "dynamic-int8",
    "weight-int8",
    "weight-int4",
)
CALIBRATED: tuple[Precision, ...] = ("int8", "int16x8")  # activations have ranges, found on samples
INTEGER: tuple[Precision, ...] = ("int8", "int16x8", "dynamic-int8")  # matrix operators multiply integers
STORED: tuple[Precision, ...] = ("dynamic-int8", "weight-int8", "weight-int4")  # weights alone are coded


_BITS = (4, 7, 8)
_SMALLEST_BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedScale:
    """The scale and zero point an engine's integer kernel imposes on its output."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Policy:
    """What the integer kernels of a target can do. Drives the QDQ writer and the lowering alike.

    `activation`: dtype of activations, per tensor, asymmetric unless `activation_symmetric` (int16 codes are
    always symmetric).
    `weight_bits`: codes of weights, symmetric, zero point 0, stored as int8: 8 bits are [-127, 127], 7 bits
    [-63, 63], 4 bits [-7, 7]; fewer than 7 are for accelerators that read such weights.
    `multiply_add`: "saturating" where the CPU may add two neighbouring u8*s8 products in 16 saturating bits
    (x86 without VNNI): 8-bit codes are then capped pair by pair so that no sum can saturate; else "exact".
    `per_channel`: one weight scale an output channel.
    `integer_ops`: ONNX op types that run in integer arithmetic: their inputs and outputs get quantizers.
    `shared_scale_ops`: op types that move values without rescaling: inputs and outputs share scale and zero
    point; they are integer when their input is.
    `fused_activations`: op types that a convolution or matrix product absorbs: no quantizer in between.
    `affine_absorbers`: op types that absorb an Add, Sub, Mul or Div with a constant: no quantizer in between.
    `sum_absorbers`: op types that absorb an Add of two activations behind them: no quantizer in between. Of
    two such inputs of one Add the first is absorbed.
    `fixed_outputs`: op type -> the scale and zero point its integer kernel imposes.
    `float_output_ops`: op types whose integer kernel can write float: no quantizer behind them unless a
    reader wants integers (so logits stay float).
    `stored_weight_ops`: op types that compute in float but whose constant weights are stored in 8 bits: LSTM,
    GRU, RNN, of more than one step.
    `symmetric_right_ops`: op types whose kernel wants zero point 0 of a second input that is no constant.
    `symmetric_ops`: op types whose kernel is fastest with zero point 0 of all it reads. Where `activation` is
    uint8, a tensor that is never negative stays uint8, another is int8; its quantizer sits where the tensor
    is made, before Reshape and the like.
    `float_attention`: the engine computes attention (two products of activations and the Softmax between
    them) faster in float than in integers: it stays float.
    `even_spectra`: layers that read the magnitudes of a spectrum are faster in integers by enough to pay for
    evening out its frequencies and for some of its quiet ones; else they stay float.
    """

    activation: Literal["uint8", "int8", "int16"]
    activation_symmetric: bool = False
    headroom: float = 1.0
    weight_bits: Literal[4, 5, 6, 7, 8] = 8
    multiply_add: Literal["exact", "saturating"] = "exact"
    per_channel: bool = True
    integer_ops: tuple[str, ...]
    shared_scale_ops: tuple[str, ...] = ()
    fused_activations: tuple[str, ...] = ("Relu", "Clip")
    affine_absorbers: tuple[str, ...] = ()
    sum_absorbers: tuple[str, ...] = ()
    fixed_outputs: dict[str, FixedScale] = field(default_factory=dict)
    float_output_ops: tuple[str, ...] = ()
    stored_weight_ops: tuple[str, ...] = ()
    symmetric_right_ops: tuple[str, ...] = ()
    symmetric_ops: tuple[str, ...] = ()
    float_attention: bool = False
    even_spectra: bool = False

    def __post_init__(self) -> None:
        if not 1.0 <= self.headroom <= 16.0:
            raise UsageError(f"headroom: got {self.headroom!r}, allowed: 1 to 16")
        if self.activation == "int16" and not self.activation_symmetric:
            raise UsageError('activation "int16" needs activation_symmetric = true: no kernel has another')

    @property
    def weight_limit(self) -> int:
        """The largest code of a weight; the smallest is its negative."""
        return int(2 ** (self.weight_bits - 1) - 1)

    @property
    def caps_pairs(self) -> bool:
        """Whether neighbouring codes are capped together: sums of codes of 7 bits cannot saturate."""
        return self.multiply_add == "saturating" and self.weight_bits == 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPolicy:
    """How constant weights are stored where activations are float: symmetric codes, zero point 0.

    `bits`: ONNX op type -> bits of its weights (4, 7 or 8); weights of other operators stay float. 7 where an
    integer kernel multiplies them and the CPU saturates. One scale an output channel, or with `block_size`
    one for each run of that many weights that one output of a matrix product sums, where it divides them
    evenly (0: none). Weights of fewer than `smallest` elements stay float: they save nothing.
    """

    bits: dict[str, int]
    block_size: int = 0
    smallest: int = 64

    def __post_init__(self) -> None:
        problems = [f"bits.{op}: got {n}, allowed: 4, 7, 8" for op, n in self.bits.items() if n not in _BITS]
        if self.block_size < 0 or (self.block_size and self.block_size < _SMALLEST_BLOCK):
            problems.append(f"block_size: got {self.block_size}, allowed: 0, or {_SMALLEST_BLOCK} and more")
        if problems:
            raise UsageError("the policy of weights is out of range", problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device profile.

    `engine` names the runtime engine and the backend that lowers for it. `refuse` maps a precision to the
    reason this target does not do it. `float16` says what float16 means there: "weights" stores weights in
    half precision and computes in float32, "full" computes in half precision. `layout` is the layout of the
    artifact's image inputs and outputs: "source" keeps the model's, "nhwc" moves channels last. `options` go
    to the engine at load. `requires` names hardware without which the artifact cannot run ("cuda"). `int8`
    and `int16x8` are the policies of the precisions of that name, `weights` has those of "dynamic-int8",
    "weight-int8" and "weight-int4"; `weight_options` are options for these three alone.
    """

    schema: int
    name: str
    summary: str
    engine: Literal["tflite", "openvino", "onnxruntime"]
    precisions: tuple[Precision, ...]
    refuse: dict[str, str] = field(default_factory=dict)
    float16: Literal["weights", "full"] = "weights"
    layout: Literal["source", "nhwc"] = "source"
    options: dict[str, str] = field(default_factory=dict)
    requires: Literal["", "cuda"] = ""
    int8: Int8Policy | None = None
    int16x8: Int8Policy | None = None
    weights: dict[str, WeightPolicy] = field(default_factory=dict)
    weight_options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if self.schema != 1:
            problems.append(f"schema: got {self.schema!r}, this edgekit reads 1")
        for precision in (*CALIBRATED, *STORED):
            table = precision if precision in CALIBRATED else f"weights.{precision}"
            if precision in self.precisions and self.policy(precision) is None:
                problems.append(f"{precision}: precision {precision!r} needs a [{table}] table")
        if self.int8 is not None and self.int8.activation == "int16":
            problems.append("int8.activation: int16 belongs in [int16x8]")
        if self.int16x8 is not None and self.int16x8.activation != "int16":
            problems.append(f"int16x8.activation: got {self.int16x8.activation!r}, allowed: 'int16'")
        if unknown := sorted(set(self.weights) - set(STORED)):
            problems.append(f"weights: got {', '.join(unknown)}, allowed: {', '.join(STORED)}")
        if unknown := sorted(set(self.refuse) - set(PRECISIONS)):
            problems += [f"refuse.{name}: {nearest(name, PRECISIONS)}" for name in unknown]
        if overlap := sorted(set(self.precisions) & set(self.refuse)):
            problems.append(f"refuse: {', '.join(overlap)} cannot be both offered and refused")
        if problems:
            raise UsageError("the profile contradicts itself", problems=problems)

    def policy(self, precision: Precision) -> Int8Policy | WeightPolicy | None:
        """The numeric policy of this precision; None where the float graph is lowered."""
        if precision == "int8":
            return self.int8
        return self.int16x8 if precision == "int16x8" else self.weights.get(precision)


def list_targets() -> tuple[Target, ...]:
    """Every target profile that edgekit ships, by name."""
    return tuple(decode_toml(Target, path) for path in sorted(data_folder("targets").glob("*.toml")))


def load_target(name: str) -> Target:
    """The target of this name, or the one in the TOML file of this path.

    Raises `UsageError` with the nearest known name.
    """
    if name.endswith(".toml"):
        return decode_toml(Target, Path(name))
    path = data_folder("targets") / f"{name}.toml"
    if not path.is_file():
        known = [p.stem for p in data_folder("targets").glob("*.toml")]
        raise UsageError(
            f"unknown target {name!r}; {nearest(name, known)}",
            hint="`edgekit targets` lists them; a path to a .toml profile of your own works too",
        )
    return decode_toml(Target, path)

"""A target: what a device can do, as data. One TOML file in `targets/` is one target."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgekit.core.codec import decode_toml
from edgekit.core.files import data_folder
from edgekit.errors import UsageError, nearest

__all__ = ["FixedScale", "Int8Policy", "Precision", "Target", "list_targets", "load_target"]

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedScale:
    """The scale and zero point an engine's integer kernel imposes on its output."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Policy:
    """What the integer kernels of a target can do. Drives the QDQ writer and the lowering alike.

    `activation`: dtype of activations, per tensor, asymmetric unless `activation_symmetric`.
    `weight_bits`: codes of weights, symmetric int8, zero point 0: 8 bits are [-127, 127], 7 bits [-63, 63]
    (where the CPU's u8*s8 multiply-add saturates: x86 without VNNI).
    `per_channel`: one weight scale an output channel.
    `integer_ops`: ONNX op types that run in integer arithmetic: their inputs and outputs get quantizers.
    `shared_scale_ops`: op types that move values without rescaling: inputs and outputs share scale and zero
    point; they are integer when their input is.
    `fused_activations`: op types that a convolution or matrix product absorbs: no quantizer in between.
    `fixed_outputs`: op type -> the scale and zero point its integer kernel imposes.
    `float_output_ops`: op types whose integer kernel can write float: no quantizer behind them unless a
    reader wants integers (so logits stay float).
    """

    activation: Literal["uint8", "int8"]
    activation_symmetric: bool = False
    weight_bits: Literal[7, 8] = 8
    per_channel: bool = True
    integer_ops: tuple[str, ...]
    shared_scale_ops: tuple[str, ...] = ()
    fused_activations: tuple[str, ...] = ("Relu", "Clip")
    fixed_outputs: dict[str, FixedScale] = field(default_factory=dict)
    float_output_ops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device profile.

    `engine` names the runtime engine and the backend that lowers for it. `refuse` maps a precision to the
    reason this target does not do it. `float16` says what float16 means there: "weights" stores weights in
    half precision and computes in float32, "full" computes in half precision. `layout` is the layout of the
    artifact's image inputs and outputs: "source" keeps the model's, "nhwc" moves channels last. `options` go
    to the engine at load. `requires` names hardware without which the artifact cannot run ("cuda").
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

    def __post_init__(self) -> None:
        problems = []
        if self.schema != 1:
            problems.append(f"schema: got {self.schema!r}, this edgekit reads 1")
        if "int8" in self.precisions and self.int8 is None:
            problems.append("int8: precision 'int8' needs an [int8] table")
        if overlap := sorted(set(self.precisions) & set(self.refuse)):
            problems.append(f"refuse: {', '.join(overlap)} cannot be both offered and refused")
        if problems:
            raise UsageError("the profile contradicts itself", problems=problems)


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

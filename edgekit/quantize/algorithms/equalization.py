"""Cross-layer equalization and SmoothQuant: the float graph rewritten so that one scale fits every channel.

Sources: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
section 4.1 (a layer, then Relu, then a layer); Xiao et al., "SmoothQuant: Accurate and Efficient
Post-Training Quantization for Large Language Models" (2022) (LayerNormalization, then matrix products). How
far, see `channel_scales`.

A network input whose features have different units has nothing before it to take the division: it gets an
operator of its own, one multiplication a value, where the factors differ by `UNITS` or more. So do the
magnitudes of a spectrum, which has too little in common with its loudest frequencies for one scale.

Only where it is exact: between the two lies nothing but what commutes with a positive factor a channel
(f(s x) = s f(x): Relu, LeakyRelu, PRelu, pooling, flattening) and nothing else reads what is scaled. Clip,
Relu6, HardSwish and residual branches are left alone. High biases are absorbed nowhere: behind a Relu that is
exact only if no input ever comes near zero, which samples cannot prove.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.algorithms.channel_scales import channel_factors
from edgekit.quantize.graph_index import GraphIndex, attribute, index_graph
from edgekit.quantize.leave_float import UNITS
from edgekit.quantize.spectra import EVEN, EVENING

__all__ = ["Equalized", "equalize", "even_spectra", "smooth"]

_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_FLATTENING = ("Flatten", "Reshape")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Channels = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalized:
    """A graph of the same function, and the activations whose channels were scaled."""

    model: Any
    tensors: tuple[str, ...]


def equalize(model: Any, channels: Channels) -> Equalized:
    """Even out the channels between convolutions and matrix products of a ModelProto, and of its inputs.

    `channels` are those of a `Calibration` of this model. Must not change: the outputs; names and shapes.
    """
    even = _rescale(model, channels, makers=_LAYERS, largest_share=1.0)
    return replace(even, tensors=(*even.tensors, *_even_inputs(even.model, channels)))


def smooth(model: Any, channels: Channels, *, largest_share: float) -> Equalized:
    """Move outlying channels behind LayerNormalization into the matrix products that read it.

    `channels` are those of a `Calibration` of this model; `largest_share` bounds the share, 0 to 1. Must not
    change: the outputs; names and shapes.
    """
    return _rescale(model, channels, makers=("LayerNormalization",), largest_share=largest_share)


def _rescale(model: Any, channels: Channels, *, makers: tuple[str, ...], largest_share: float) -> Equalized:
    copy = type(model)()
    copy.CopyFrom(model)
    index = index_graph(copy)
    edited = _Edited(index)
    tensors = []
    for tensor, (low, high) in sorted(channels.items()):
        readers = edited.readers(tensor)
        maker = edited.maker(tensor, makers) if readers else None
        if maker is None:
            continue
        reach = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
        if maker.repeat > 1:  # a flattened tensor: neighbours come from one channel
            reach = reach.reshape(-1, maker.repeat).max(axis=1)
        weights = [edited.seen_from_input(r, len(reach), maker.repeat) for r in readers]
        factors = channel_factors(reach, weights, largest_share=largest_share)
        if (factors == 1.0).all() or len(factors) != maker.channels:
            continue
        for reader in readers:
            edited.scale_inputs(reader, np.repeat(factors, maker.repeat))
        edited.scale_outputs(maker, factors)
        tensors.append(tensor)
    edited.write()
    return Equalized(model=copy, tensors=tuple(tensors))


def even_spectra(model: Any, seen: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> list[str]:
    """Bring the frequencies of the magnitudes of a ModelProto to one size, in place; says which tensors.

    `seen`: magnitude -> highest value and mean square of each frequency. Left alone where nothing is gained.
    """
    return _divided(model, seen, least=1.0)


def _even_inputs(model: Any, channels: Channels) -> list[str]:
    """Bring the features of each input of a ModelProto to one size, in place; says which inputs."""
    inputs = (i.name for i in model.graph.input if i.name in channels)
    return _divided(model, {i: (np.max(np.abs(channels[i]), axis=0), None) for i in inputs}, least=UNITS)


def _divided(
    model: Any, seen: Mapping[str, tuple[NDArray[Any], NDArray[Any] | None]], *, least: float
) -> list[str]:
    """Divide the channels of tensors, in place, where factors differ by `least` at least; says which.

    `seen`: tensor -> largest magnitude of each channel, and its mean square where it is known.
    """
    edited = _Edited(index_graph(model))
    found = []
    for tensor, (largest, power) in seen.items():
        readers = edited.readers(tensor)
        if not readers or len({r.op_type == "Conv" for r in readers}) > 1:
            continue
        reach = largest.astype(np.float64)
        weights = [edited.seen_from_input(r, len(reach), 1) for r in readers]
        factors = channel_factors(reach, weights, power=None if power is None else power.astype(np.float64))
        if (factors == factors[0]).all() or factors.max() < least * factors.min():
            continue
        for reader in readers:
            edited.scale_inputs(reader, factors)
        edited.divide(tensor, readers, factors)
        found.append(tensor)
    edited.write()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """The node whose constants take the division: `constants` by name with the axis of the channels.

    `repeat`: how many neighbouring values of the scaled tensor come from one channel.
    """

    constants: tuple[tuple[str, int], ...]
    channels: int
    repeat: int


class _Edited:
    """The constants of a graph as they change; each is read by one node."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index
        self.values: dict[str, NDArray[Any]] = {}

    def constant(self, name: str) -> NDArray[Any]:
        """A constant as it stands."""
        return self.values.get(name, self.index.constants[name])

    def own(self, name: str) -> bool:
        """Whether `name` is a float constant that one node reads, once."""
        readers = self.index.readers.get(name, ())
        once = sum(list(n.input).count(name) for n in readers) == 1
        return bool(self.index.is_float_constant(name) and once and name not in self.index.outputs)

    def readers(self, tensor: str) -> list[Any]:
        """The layers that read `tensor` as data; empty unless all that read it can take factors."""
        nodes = self.index.readers.get(tensor, ())
        if tensor in self.index.outputs or not all(self._takes_factors(n, tensor) for n in nodes):
            return []
        return list(nodes)

    def _takes_factors(self, node: Any, tensor: str) -> bool:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or list(node.input).count(tensor) != 1:
            return False
        if node.input[0] != tensor or not self.own(node.input[1]):
            return False
        weight = self.index.constants[node.input[1]]
        if node.op_type == "Conv":
            group = attribute(node, "group", 1)
            return bool(group == 1 or weight.shape[1] == 1)
        return bool(weight.ndim == 2 and not attribute(node, "transA", 0))

    def seen_from_input(self, node: Any, channels: int, repeat: int) -> NDArray[np.float64]:
        """A reader's weight as (outputs, channels, taps); (outputs, 1, taps) where it is depthwise."""
        weight = self.constant(node.input[1]).astype(np.float64)
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
            weight = weight.T
        if node.op_type == "Conv":
            return weight.reshape(weight.shape[0], weight.shape[1], -1)
        return weight.reshape(weight.shape[0], channels, repeat)

    def scale_inputs(self, node: Any, factors: NDArray[np.float64]) -> None:
        """Multiply what a reader does with each input channel."""
        name = node.input[1]
        weight = self.constant(name)
        if node.op_type == "Conv":
            depthwise = attribute(node, "group", 1) > 1
            values = np.repeat(factors, weight.shape[0] // len(factors)) if depthwise else factors
            axis = 0 if depthwise else 1
        else:
            values, axis = factors, 1 if attribute(node, "transB", 0) else 0
        self.values[name] = _along(weight, values, axis)

    def scale_outputs(self, maker: _Maker, factors: NDArray[np.float64]) -> None:
        """Divide what the maker gives in each channel."""
        for name, axis in maker.constants:
            self.values[name] = _along(self.constant(name), 1.0 / factors, axis)

    def divide(self, tensor: str, readers: list[Any], factors: NDArray[np.float64]) -> None:
        """Put a Mul behind an input or the output of a node, and let its readers read that."""
        from onnx import helper, numpy_helper

        graph = self.index.model.graph
        rank = len(self.index.shapes[tensor])
        behind = rank - 2 if readers[0].op_type == "Conv" else 0
        scales = (1.0 / factors).astype(np.float32).reshape(-1, *[1] * behind)
        result, constant = f"{tensor}{EVEN}", f"{tensor}{EVENING}"
        graph.initializer.append(numpy_helper.from_array(scales, constant))
        places = (i for i, n in enumerate(graph.node) if tensor in n.output)
        mul = helper.make_node("Mul", [tensor, constant], [result], name=result)
        graph.node.insert(next(places, -1) + 1, mul)
        declared = next(i for i in (*graph.input, *graph.value_info) if i.name == tensor)
        graph.value_info.add().CopyFrom(declared)
        graph.value_info[-1].name = result
        for reader in readers:
            reader.input[0] = result

    def maker(self, tensor: str, allowed: tuple[str, ...]) -> _Maker | None:
        """The node behind `tensor` that can take factors, through what commutes with them; None: no such."""
        repeat = 1
        added: list[str] = []
        for node in self._upwards(tensor):
            output = node.output[0]
            if node.op_type in allowed:
                return self._maker(node, repeat, added)
            if node.op_type == "Add" and "MatMul" in allowed and not added:
                bias = [i for i in node.input if self.own(i) and self.index.constants[i].ndim == 1]
                if len(bias) != 1:
                    return None
                added = bias
            elif node.op_type in _FLATTENING and repeat == 1:
                repeat = self._flattened(node)
                if not repeat:
                    return None
            elif node.op_type not in (*_HOMOGENEOUS, *_POOLS) or not self._keeps_channels(node, output):
                return None
        return None

    def _upwards(self, tensor: str) -> Iterator[Any]:
        """The nodes behind `tensor`, each the only one that its result goes to, nearest first."""
        while (node := self.index.producer.get(tensor)) is not None:
            yield node
            data = [i for i in node.input if self.index.is_float_activation(i)]
            if len(data) != 1 or self.index.only_reader(data[0]) is not node:
                return
            tensor = data[0]

    def _keeps_channels(self, node: Any, output: str) -> bool:
        if node.op_type == "MaxPool" and len([o for o in node.output if o]) > 1:
            return False
        return len(self.index.shapes.get(output, ())) >= 2

    def _flattened(self, node: Any) -> int:
        """How many values of [1, channels * n] come from a channel of [1, channels, ...]; 0: another form."""
        before, after = self.index.shapes[node.input[0]], self.index.shapes[node.output[0]]
        if len(after) != 2 or len(before) < 2 or before[0] != after[0] or 0 in before:
            return 0
        return after[1] // before[1] if after[1] % before[1] == 0 else 0

    def _maker(self, node: Any, repeat: int, added: list[str]) -> _Maker | None:
        """The constants of a node by which its outputs can be divided."""
        weight = node.input[1] if len(node.input) > 1 else ""
        if not weight or not self.own(weight):
            return None
        shape = self.index.constants[weight].shape
        axis = 0
        if node.op_type == "LayerNormalization":
            last = len(self.index.shapes[node.output[0]]) - 1
            if attribute(node, "axis", -1) not in (-1, last):
                return None
        elif added and node.op_type not in ("MatMul", "Gemm"):
            return None  # what is added there lies along the last axis, not along the channels
        elif node.op_type == "ConvTranspose":
            axis = 1
            if attribute(node, "group", 1) != 1:
                return None
        elif node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
            axis = 1
            if len(shape) != 2:
                return None
        bias = node.input[2] if len(node.input) > 2 else ""
        constants = [(weight, axis), *((name, 0) for name in (bias, *added) if name)]
        channels = shape[axis]
        alike = all(
            self.own(name) and self.index.constants[name].shape == (channels,) for name, _ in constants[1:]
        )
        return _Maker(constants=tuple(constants), channels=channels, repeat=repeat) if alike else None

    def write(self) -> None:
        """Put the changed constants into the graph."""
        from onnx import numpy_helper

        for initializer in self.index.model.graph.initializer:
            if initializer.name in self.values:
                changed = numpy_helper.from_array(self.values[initializer.name], initializer.name)
                initializer.CopyFrom(changed)


def _along(values: NDArray[Any], factors: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.asarray(values * factors.reshape(shape).astype(np.float32), np.float32)

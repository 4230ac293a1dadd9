"""Moves transposes towards the outputs until they cancel, so that channels-last kernels follow each other.

Before: every spatial operator stands between TRANSPOSE (0,2,3,1) and TRANSPOSE (0,3,1,2).
After:  on a convolutional network none is left; where one is needed it stands once, on the smaller side.
Must not change: what the graph computes, its ports.

One walk in execution order: an operator that reads T_p(y) and does not care for the order of axes reads y
instead, its parameters are rewritten for y, and T_p goes behind it, where it meets the next T_q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.backends.tflite.ir import Array, Graph, Operator, OptionValue, Tensor
from edgekit.backends.tflite.layout_reshape import (
    flatten_readers,
    group_axes,
    moves_only_ones,
    permute_columns,
)
from edgekit.backends.tflite.op import inverse, permuted

__all__ = ["ELEMENTWISE", "move_transposes"]

Perm = tuple[int, ...]

ELEMENTWISE = frozenset(
    (
        "ABS",
        "ADD",
        "CAST",
        "CEIL",
        "COS",
        "DEQUANTIZE",
        "DIV",
        "ELU",
        "EQUAL",
        "EXP",
        "FLOOR",
        "GELU",
        "GREATER",
        "GREATER_EQUAL",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LESS",
        "LESS_EQUAL",
        "LOG",
        "LOGICAL_AND",
        "LOGICAL_NOT",
        "LOGICAL_OR",
        "LOGISTIC",
        "MAXIMUM",
        "MINIMUM",
        "MUL",
        "NEG",
        "POW",
        "PRELU",
        "QUANTIZE",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "ROUND",
        "RSQRT",
        "SELECT_V2",
        "SIGN",
        "SIN",
        "SQRT",
        "SQUARE",
        "SQUARED_DIFFERENCE",
        "SUB",
        "TANH",
    )
)
_LAST_AXIS = frozenset(("SOFTMAX", "LOG_SOFTMAX", "FULLY_CONNECTED"))
_REDUCTIONS = frozenset(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"))


def move_transposes(graph: Graph) -> None:
    """Rewrite `graph` in place."""
    _Mover(graph).run()


class _Mover:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers = graph.consumers()
        self.port_tensors = {port.tensor for port in graph.outputs}
        self.operators: list[Operator] = []
        self.source: dict[Tensor, tuple[Tensor, Perm]] = {}  # t = y.transpose(p)
        self.alias: dict[Tensor, Tensor] = {}
        self.made: dict[tuple[Tensor, Perm], Tensor] = {}

    def run(self) -> None:
        for op in self.graph.operators:
            op.inputs = [self.alias.get(t, t) if t is not None else None for t in op.inputs]
            if op.kind == "TRANSPOSE":
                self._compose(op)
            elif not self._move(op):
                self.operators.append(op)
        self.graph.operators = self.operators
        for port in self.graph.outputs:
            port.tensor = self.alias.get(port.tensor, port.tensor)

    def _compose(self, op: Operator) -> None:
        x = _present(op.inputs[0])
        self._bind(op.output, x, _ints(op.inputs[1]), op.origin)

    def _bind(self, target: Tensor, x: Tensor, perm: Perm, origin: str) -> None:
        """Make `target` be x.transpose(perm)."""
        made = self._transposed(x, perm, origin, name=target.name)
        self.alias[target] = made

    def _transposed(self, x: Tensor, perm: Perm, origin: str, *, name: str = "") -> Tensor:
        """x.transpose(perm), composed with what made x; no operator when that is the identity."""
        if x.data is not None:
            return _permuted_constant(x, perm)
        if x in self.source:
            x, first = self.source[x]
            perm = tuple(first[axis] for axis in perm)
        if perm == tuple(range(len(perm))):
            return x
        if (x, perm) not in self.made:
            result = Tensor(name=name or x.name, shape=permuted(x.shape, perm), dtype=x.dtype, quant=x.quant)
            axes = _vector(perm, f"{result.name}/perm")
            self.operators.append(
                Operator(kind="TRANSPOSE", inputs=[x, axes], outputs=[result], origin=origin)
            )
            self.source[result] = (x, perm)
            self.made[x, perm] = result
        return self.made[x, perm]

    def _move(self, op: Operator) -> bool:
        """Emit `op` before the transpose it reads; False when it must stay behind it."""
        if op.kind in ELEMENTWISE:
            return self._elementwise(op, list(range(len(op.inputs))))
        if op.kind == "CONCATENATION":
            return self._elementwise(op, list(range(len(op.inputs))), remap_axis=True)
        x = op.inputs[0] if op.inputs else None
        if x is None or x not in self.source:
            return False
        rule = self._rules().get(op.kind)
        return rule(op, *self.source[x]) if rule is not None else False

    def _rules(self) -> dict[str, Callable[[Operator, Tensor, Perm], bool]]:
        return {
            "RESHAPE": self._reshape,
            "PAD": self._rows,
            "PADV2": self._rows,
            "MIRROR_PAD": self._rows,
            "SLICE": self._rows,
            "BROADCAST_TO": self._rows,
            "STRIDED_SLICE": self._strided_slice,
            "GATHER": self._gather,
            "ARG_MAX": self._arg,
            "ARG_MIN": self._arg,
            **dict.fromkeys(_LAST_AXIS, self._last_axis),
            **dict.fromkeys(_REDUCTIONS, self._reduce),
        }

    def _finish(self, op: Operator, perm: Perm) -> None:
        """Emit `op` in the new order of axes; its old output becomes the transpose of the new one."""
        old = op.output
        shape = permuted(old.shape, inverse(perm))
        new = Tensor(name=old.name, shape=shape, dtype=old.dtype, quant=old.quant)
        op.outputs = [new]
        self.operators.append(op)
        self._bind(old, new, perm, op.origin)

    def _elementwise(self, op: Operator, operands: Sequence[int], *, remap_axis: bool = False) -> bool:
        rank = len(op.output.shape)
        gain: dict[Perm, int] = {}
        for tensor in op.inputs:
            if tensor in self.source and len(tensor.shape) == rank:
                perm = self.source[tensor][1]
                gain[perm] = gain.get(perm, 0) + tensor.size
        if not gain:
            return False
        perm = max(gain, key=lambda p: gain[p])
        back = inverse(perm)
        if any(t is not None and len(t.shape) not in (0, rank) for t in op.inputs):
            return False
        cost = sum(_present(t).size for t in op.inputs if self._costs(_present(t), perm))
        if cost > gain[perm]:
            return False
        inputs: list[Tensor | None] = []
        for index in operands:
            tensor = _present(op.inputs[index])
            scalar = not tensor.shape
            inputs.append(tensor if scalar else self._transposed(tensor, back, op.origin))
        op.inputs = inputs
        if remap_axis:
            op.options = {**op.options, "axis": perm[_int(op.options["axis"])]}
        self._finish(op, perm)
        return True

    def _costs(self, tensor: Tensor, perm: Perm) -> bool:
        """Whether bringing this operand into the other order takes a real TRANSPOSE."""
        if tensor.data is not None or not tensor.shape or moves_only_ones(tensor.shape, inverse(perm)):
            return False
        return tensor not in self.source or self.source[tensor][1] != perm

    def _rows(self, op: Operator, y: Tensor, perm: Perm) -> bool:
        """Parameters that hold one row for each axis: pads, begins, sizes."""
        back = list(inverse(perm))
        rank = len(perm)
        parameters = [
            t if t is None or not t.shape or t.data is None else _constant(t.data[back], t.name)
            for t in op.inputs[1:]
        ]
        if len(op.output.shape) != rank or any(t is not None and t.data is None for t in op.inputs[1:]):
            return False
        op.inputs = [y, *parameters]
        self._finish(op, perm)
        return True

    def _strided_slice(self, op: Operator, y: Tensor, perm: Perm) -> bool:
        masks = {
            name: sum(1 << axis for position, axis in enumerate(perm) if _int(mask) >> position & 1)
            for name, mask in op.options.items()
        }
        op.options = masks
        return self._rows(op, y, perm)

    def _reduce(self, op: Operator, y: Tensor, perm: Perm) -> bool:
        axes = [perm[axis] for axis in _ints(op.inputs[1])]
        op.inputs = [y, _vector(sorted(axes), f"{op.output.name}/axes")]
        if op.options.get("keep_dims"):
            self._finish(op, perm)
            return True
        kept = [axis for axis in perm if axis not in axes]  # axes of y, in the order of the output
        order = sorted(kept)
        self._finish(op, tuple(order.index(axis) for axis in kept))
        return True

    def _arg(self, op: Operator, y: Tensor, perm: Perm) -> bool:
        axis = perm[_ints(op.inputs[1])[0]]
        op.inputs = [y, _constant(np.asarray(axis, np.int32), f"{op.output.name}/axis")]
        kept = [a for a in perm if a != axis]
        order = sorted(kept)
        self._finish(op, tuple(order.index(a) for a in kept))
        return True

    def _gather(self, op: Operator, y: Tensor, perm: Perm) -> bool:
        if len(op.output.shape) != len(perm):
            return False
        op.inputs = [y, op.inputs[1]]
        op.options = {**op.options, "axis": perm[_int(op.options["axis"])]}
        self._finish(op, perm)
        return True

    def _last_axis(self, op: Operator, y: Tensor, perm: Perm) -> bool:
        """Operators along the last axis do not care for the order of the others."""
        if perm[-1] != len(perm) - 1 or len(op.output.shape) != len(perm):
            return False
        if op.kind == "FULLY_CONNECTED" and len(perm) == 2:
            return False
        op.inputs = [y, *op.inputs[1:]]
        self._finish(op, perm)
        return True

    def _reshape(self, op: Operator, y: Tensor, perm: Perm) -> bool:
        x, output = _present(op.inputs[0]), op.output
        if moves_only_ones(y.shape, perm):
            op.inputs[0] = y
            self.operators.append(op)
            return True
        if (columns := permute_columns(x.shape, output.shape, perm)) is not None:
            readers = flatten_readers(output, self.readers, self.port_tensors)
            if readers is not None:
                for reader in readers:
                    weight = _present(reader.inputs[1])
                    assert weight.data is not None
                    reader.inputs[1] = Tensor(
                        name=weight.name,
                        shape=weight.shape,
                        dtype=weight.dtype,
                        data=np.ascontiguousarray(weight.data[:, columns]),
                        quant=weight.quant,
                    )
                op.inputs[0] = y
                self.operators.append(op)
                return True
        grouped = group_axes(x.shape, output.shape, perm)
        if grouped is None:
            return False
        gather, shape, after = grouped
        y = self._transposed(y, gather, op.origin)
        op.inputs = [y, _vector(shape, f"{output.name}/shape")]
        op.options = {"new_shape": shape}
        self._finish(op, after)
        return True


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _int(value: OptionValue) -> int:
    assert isinstance(value, int)
    return value


def _ints(tensor: Tensor | None) -> tuple[int, ...]:
    data = _present(tensor).data
    assert data is not None
    return tuple(int(v) for v in data.ravel())


def _constant(data: Array, name: str) -> Tensor:
    return Tensor(name=name, shape=data.shape, dtype=str(data.dtype), data=data)


def _vector(values: Sequence[int], name: str) -> Tensor:
    return _constant(np.asarray(values, np.int32), name)


def _permuted_constant(tensor: Tensor, perm: Perm) -> Tensor:
    assert tensor.data is not None
    data = np.ascontiguousarray(tensor.data.transpose(perm))
    return Tensor(name=tensor.name, shape=data.shape, dtype=tensor.dtype, data=data, quant=tensor.quant)

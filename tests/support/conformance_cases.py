"""The operator cases of the onnx package's own backend test suite, as files that child processes read."""

from __future__ import annotations

import fcntl
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")

# The suite gives every parameter of an operator as an input of the model. Models have constants there, and an
# engine may need them: cases of these operators come a second time, with all inputs but the first constant.
WITH_PARAMETERS = frozenset({
    "BatchNormalization", "BitShift", "Clip", "Conv", "ConvTranspose", "CumSum", "Expand", "GRU", "Gather",
    "Gemm", "GroupNormalization", "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul", "OneHot",
    "PRelu", "Pad", "Pow", "RNN", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Reshape", "Resize", "Slice",
    "Split", "Squeeze", "Tile", "TopK", "Trilu", "Unsqueeze", "Upsample",
})  # fmt: skip
CONSTANT = "_with_constants"

# ONNX: x_original = x_resized * (length_original - 1) / (length_resized - 1), where the resized length is a
# whole number; the suite's expected values put the fraction scale * length there. All three engines agree.
EXPECTED_OF_ONNX_RUNTIME = frozenset({
    "test_resize_downsample_scales_cubic_align_corners",
    "test_resize_downsample_scales_linear_align_corners",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model and what it must answer: (inputs, outputs) in the order of its graph, for every data set.

    `bound` replaces the bounds for single values by one on the largest difference, in absolute terms;
    `step` is the unit in which the answers of an integer network are counted.
    """

    name: str
    model: bytes
    sets: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float
    bound: float | None = None
    step: float = 1.0


def collect(folder: Path) -> list[str]:
    """The names of all cases, sorted; each is written to `folder/NAME/case.pkl` once, by whoever comes first.

    The suite computes its data at import (ten seconds), hence the files and a process of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "names.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            command = [sys.executable, "-W", "ignore", __file__, str(folder)]
            subprocess.run(command, check=True, capture_output=True)
    return done.read_text().split()


def read_case(folder: Path, name: str) -> Case:
    """The case of this name."""
    case: Case = pickle.loads((folder / name / "case.pkl").read_bytes())
    return case


def write_cases(folder: Path) -> None:
    """Write every case of the suite."""
    from onnx.backend.test.loader import load_model_tests

    names = []
    for kind in KINDS:
        for found in load_model_tests(kind=kind):
            case = _case(found)
            for one in (case, *_with_constants(case)):
                (folder / one.name).mkdir()
                (folder / one.name / "case.pkl").write_bytes(pickle.dumps(one))
                names.append(one.name)
    (folder / "names.txt").write_text("\n".join(sorted(names)))


def _case(found: Any) -> Case:
    if found.model is not None:
        model, sets = found.model.SerializeToString(), found.data_sets
    else:
        place = Path(found.model_dir)
        model = (place / "model.onnx").read_bytes()
        sets = [_stored(model, data) for data in sorted(place.glob("test_data_set_*"))]
    arrays = tuple(([_array(v) for v in inputs], [_array(v) for v in outputs]) for inputs, outputs in sets)
    return Case(name=found.name, model=model, sets=arrays, rtol=found.rtol, atol=found.atol)


def _with_constants(case: Case) -> list[Case]:
    """The same case with all inputs but the first as constants, where that is another model."""
    import onnx

    model = onnx.load_from_string(case.model)
    nodes, inputs = model.graph.node, model.graph.input
    plain = len(case.sets) == 1 and len(case.sets[0][0]) == len(inputs)
    plain = plain and all(isinstance(value, np.ndarray) for value in case.sets[0][0])
    if len(nodes) != 1 or nodes[0].op_type not in WITH_PARAMETERS or len(inputs) < 2 or not plain:
        return []
    first, *others = case.sets[0][0]
    names = [info.name for info in inputs]
    for name, value in zip(names[1:], others, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del inputs[1:]
    sets = (([first], case.sets[0][1]),)
    return [replace(case, name=case.name + CONSTANT, model=model.SerializeToString(), sets=sets)]


def _stored(model: bytes, data: Path) -> tuple[list[Any], list[Any]]:
    import onnx

    graph = onnx.load_from_string(model).graph
    return _values(data, "input", graph.input), _values(data, "output", graph.output)


def _values(data: Path, word: str, infos: Sequence[Any]) -> list[Any]:
    """The stored values; initializers that are listed as inputs have none."""
    from onnx import SequenceProto, TensorProto, numpy_helper

    values: list[Any] = []
    for index, info in enumerate(infos):
        file = data / f"{word}_{index}.pb"
        if not file.exists():
            continue
        if info.type.HasField("sequence_type"):
            values.append(numpy_helper.to_list(SequenceProto.FromString(file.read_bytes())))
        else:
            values.append(TensorProto.FromString(file.read_bytes()))
    return values


def _array(value: Any) -> Any:
    """Arrays for tensors and scalars; sequences and optionals stay what the suite gives."""
    from onnx import TensorProto, numpy_helper

    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


if __name__ == "__main__":
    import conformance_cases  # pickles name the module that others import

    conformance_cases.write_cases(Path(sys.argv[1]))

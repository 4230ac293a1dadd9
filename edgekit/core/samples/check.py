"""Whether arrays go with a model's inputs: names are settled, shapes and dtypes are judged here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.samples.arrays import Rows, given_whole
from edgekit.errors import UsageError

__all__ = ["check_inputs", "check_signature"]


def check_signature(signature: Signature, *, where: str, rows: Mapping[str, Rows] | None = None) -> None:
    """Refuse a model whose inputs have no common batch axis: what one sample of them is cannot be known.

    An input of rank 0 or 1 (a sampling rate, a recurrent state) has none; fixed first dimensions that differ
    are not batch axes either. An input that `rows` gives whole, sample by sample, needs none.
    """
    given = rows or {}
    inputs = [s for s in signature.inputs if s.name not in given or not given_whole(s, given[s.name])]
    problems = [
        f"input {spec} has no batch axis: an input needs at least two axes, the first to count samples"
        for spec in inputs
        if len(spec.shape) < 2
    ]
    first = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    if not problems and len(first) > 1:
        listed = ", ".join(map(str, signature.inputs))
        problems.append(f"the first axes of the inputs differ, so they do not all count samples: {listed}")
    if problems:
        raise UsageError(
            "samples cannot be drawn for this model",
            where=where,
            problems=problems,
            hint="give such inputs whole in an .npz, (samples, *shape of the input), or make them constants "
            "of the graph before conversion",
        )


def check_inputs(rows: Mapping[str, Rows], labels: Rows | None, signature: Signature, *, where: str) -> None:
    """Refuse rows whose names, shapes, dtypes or counts do not fit the signature, all problems at once."""
    problems: list[str] = []
    named = {spec.name for spec in signature.inputs}
    if named != set(rows):
        problems.append(f"arrays {sorted(rows)} were given, the inputs are {sorted(named)}")
    for spec in signature.inputs:
        if spec.name in rows:
            problems += _shape_problems(spec, rows[spec.name])
            problems += _dtype_problems(spec, rows[spec.name].dtype)
    counts = {name: r.shape[0] for name, r in rows.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {n}" for name, n in counts.items())
        problems.append(f"the inputs have different numbers of samples: {listed}")
    count = next(iter(counts.values()), 0)
    if labels is not None and labels.shape[:1] != (count,):
        problems.append(f"{labels.shape[0] if labels.shape else 1} labels for {count} samples")
    if problems:
        raise UsageError("the samples do not go with the model", where=where, problems=problems)


def _shape_problems(spec: TensorSpec, rows: Rows) -> list[str]:
    got, wanted = rows.shape, spec.shape[1:]
    if given_whole(spec, rows):
        return []
    if _fits(got[1:], wanted):
        return []
    expected = ", ".join(["n", *(str(d) if d != "" else "?" for d in wanted)])
    hint = _shape_hint(got, wanted)
    return [f"{spec.name!r} has shape {list(got)}, expected [{expected}]{'; ' + hint if hint else ''}"]


def _shape_hint(got: tuple[int, ...], wanted: tuple[int | str, ...]) -> str:
    if len(got) == 4 and len(wanted) == 3:
        if _fits((got[3], got[1], got[2]), wanted):
            return "it looks like NHWC, the model wants NCHW: array.transpose(0, 3, 1, 2)"
        if _fits((got[2], got[3], got[1]), wanted):
            return "it looks like NCHW, the model wants NHWC: array.transpose(0, 2, 3, 1)"
    if _fits(got, wanted):
        return "it looks like one sample without the leading axis that counts samples: array[None]"
    for axis in range(len(wanted)):
        if wanted[axis] == 1 and _fits(got[1:], wanted[:axis] + wanted[axis + 1 :]):
            return f"an axis of length 1 is missing: numpy.expand_dims(array, {axis + 1})"
    for axis in range(1, len(got)):
        if got[axis] == 1 and _fits(got[1:axis] + got[axis + 1 :], wanted):
            return f"there is an axis of length 1 too many: array.squeeze({axis})"
    fixed = [d for d in wanted if isinstance(d, int)]
    if len(fixed) == len(wanted) and np.prod(got[1:], dtype=np.int64) == np.prod(fixed, dtype=np.int64):
        return "a sample has as many values as the model wants, in another shape: reshape it"
    return ""


def _fits(got: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(got) == len(wanted) and all(
        have == want if isinstance(want, int) else have > 0 for have, want in zip(got, wanted, strict=True)
    )


def _dtype_problems(spec: TensorSpec, got: np.dtype[np.generic]) -> list[str]:
    wanted = np.dtype(spec.dtype)
    if got.kind == wanted.kind or (got.kind in "iu" and wanted.kind in "iu"):
        return []  # float to float is cast; integers are cast when their values fit, which batches check
    hint = ""
    if got.kind in "iu" and wanted.kind == "f":
        hint = (
            "; scale it as the training did ((pixel - mean) / std, or pixel / 255) and save float32, or say "
            "how in a sample spec with an [array] table (calibration/README.md)"
        )
    return [f"{spec.name!r} has dtype {got}, expected {wanted}{hint}"]

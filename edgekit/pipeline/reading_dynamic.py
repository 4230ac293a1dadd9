"""Read a source whose inputs keep dynamic dimensions: in several sizes, each proven, then as one graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.core.codec import encode
from edgekit.core.dynamic import Dynamic
from edgekit.core.files import digest_file
from edgekit.core.model import Model, Signature
from edgekit.core.recipe import SourceOptions
from edgekit.errors import EdgekitError, Reason, StepError, Unsupported, UsageError, nearest
from edgekit.pipeline.steps import StepRunner

__all__ = ["read_dynamic"]

Read = Callable[[SourceOptions, Path], Model]

_VARIANTS = 3  # sizes at which every dimension is proven
_STEPS = (1, 4, 16, 32)  # of height and width: networks that halve a picture take whole multiples


def read_dynamic(source: SourceOptions, *, out: Path, runner: StepRunner, read: Read) -> Model:
    """Read `source` with `read` in three sizes and merge the readings into `out/model.onnx`.

    The first dimension of an input goes up by 1 from size to size, the others by the smallest of 1, 4, 16 and
    32 that the network takes; all change at once. The merged graph must answer in every size like the reading
    in that size, which answered like the source. Raises what `read` raises, `UsageError` for names that do
    not fit, `Unsupported` naming the nodes that cannot follow.
    """
    static = replace(source, dynamic={})
    model = read(static, out)
    _check_names(source, model.signature)
    first = {names[0] for names in source.dynamic.values() if names[0]}
    steps = _STEPS if any(any(names[1:]) for names in source.dynamic.values()) else _STEPS[:1]
    refused: EdgekitError | None = None
    for step in steps:
        sizes = _sizes(source.dynamic, model.signature, first, step)
        dynamic = Dynamic(inputs=source.dynamic, outputs={}, sizes=sizes)
        try:
            with tempfile.TemporaryDirectory(prefix=".dynamic.", dir=out) as scratch:
                _merge(static, model, dynamic, Path(scratch), runner, read)
        except (Unsupported, UsageError, StepError) as err:
            refused = err if refused is None or isinstance(err, Unsupported) else refused
            continue
        listed = ", ".join(f"{name} ({', '.join(map(str, s))}, …)" for name, s in sorted(sizes.items()))
        notes = (*model.notes, f"dynamic, proven in these sizes: {listed}")
        return replace(model, digest=digest_file(model.path), notes=notes)
    assert refused is not None
    raise Unsupported(
        "the model cannot be read with these dynamic dimensions",
        where=source.model,
        reasons=getattr(refused, "reasons", ()) or [Reason(why=refused.message)],
        hint="leave out --dynamic, or name fewer dimensions",
    ) from refused


def _check_names(source: SourceOptions, signature: Signature) -> None:
    shapes = {spec.name: spec.shape for spec in signature.inputs}
    sizes: dict[str, object] = {}
    problems = []
    for name, names in source.dynamic.items():
        if name not in shapes:
            problems.append(f"--dynamic names {name!r}, no input of the model; {nearest(name, shapes)}")
            continue
        if len(names) > len(shapes[name]):
            problems.append(f"{name}: {len(names)} names, the input has {len(shapes[name])} dimensions")
        for word, size in zip(names, shapes[name], strict=False):
            if word and sizes.setdefault(word, size) != size:
                problems.append(f"{word!r} is {sizes[word]} at one input and {size} at {name!r}")
    if problems:
        raise UsageError("the dynamic dimensions do not fit the model", where=source.model, problems=problems)


def _sizes(
    dynamic: Mapping[str, Sequence[str]], signature: Signature, first: set[str], step: int
) -> dict[str, tuple[int, ...]]:
    """Name -> sizes. Dimensions change by amounts of their own, so that none is taken for another."""
    now = {
        word: int(size)
        for spec in signature.inputs
        for word, size in zip(dynamic.get(spec.name, ()), spec.shape, strict=False)
        if word
    }
    sizes: dict[str, tuple[int, ...]] = {}
    for number, (word, size) in enumerate(now.items()):
        by = 1 if word in first else step
        order = (0, 1, 2) if number % 2 == 0 else (0, 2, 1)
        sizes[word] = tuple(size + by * k for k in order[:_VARIANTS])
    return sizes


def _merge(
    source: SourceOptions, model: Model, dynamic: Dynamic, work: Path, runner: StepRunner, read: Read
) -> None:
    paths = [model.path]
    for variant in range(1, dynamic.variants):
        shapes = {
            spec.name: dynamic.shape(spec.name, tuple(int(d) for d in spec.shape), variant)
            for spec in model.signature.inputs
        }
        folder = work / str(variant)
        folder.mkdir()
        paths.append(read(replace(source, shapes=shapes), folder).path)
    merged, opened = work / "merged.onnx", work / "opened.onnx"
    runner.run(
        "edgekit.graph.open_dimensions:open_files",
        {
            "models": [str(path) for path in paths],
            "dynamic": encode(dynamic),
            "out": str(merged),
            "opened": str(opened),
        },
        label="let the graph follow its inputs in size",
    )
    runner.run(
        "edgekit.graph.prove_sizes:prove_sizes",
        {"models": [str(path) for path in paths], "opened": str(opened)},
        label=f"prove the dynamic graph in {len(paths)} sizes",
    )
    merged.replace(model.path)

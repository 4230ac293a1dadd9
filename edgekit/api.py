"""The verbs, as functions: open, prune, convert, train_quantized, validate, benchmark, analyze, run.

The command line has the same words.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from edgekit.core.arrays import save_npz
from edgekit.core.beside import Beside
from edgekit.core.events import Listener, silent
from edgekit.core.files import new_folder
from edgekit.core.model import Model
from edgekit.core.pruning import PruningOptions
from edgekit.core.qat import QatOptions
from edgekit.core.recipe import (
    BenchmarkOptions,
    Budgets,
    CalibrationOptions,
    DataSource,
    Metric,
    QuantizationOptions,
    Recipe,
    SourceOptions,
    ValidationOptions,
    load_recipe,
)
from edgekit.core.report import Report
from edgekit.core.samples.spool import spool
from edgekit.core.sensitivity import Sensitivity
from edgekit.core.target import Precision
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.errors import UsageError
from edgekit.formats.in_memory import source_file
from edgekit.measure.verdict import judge
from edgekit.pipeline.benchmark import benchmark as _benchmark
from edgekit.pipeline.beside import place_beside
from edgekit.pipeline.compressing import pruned
from edgekit.pipeline.convert import convert as _convert
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.steps import StepRunner
from edgekit.pipeline.validate import validate as _validate
from edgekit.report import read_report, write_report
from edgekit.search.analyze import AnalysisOptions
from edgekit.search.analyze import analyze as _analyze
from edgekit.search.rescue import Rescuer

__all__ = ["analyze", "benchmark", "convert", "open", "prune", "run", "train_quantized", "validate"]

Data = str | Path | DataSource | Mapping[str, NDArray[Any]] | Iterable[Any]


def open(  # the verb of the command line; the builtin is not used here
    source: str | Path | Any,
    *,
    out: str | Path,
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: Mapping[str, Sequence[str]] | None = None,
    on_event: Listener = silent,
) -> Model:
    """Read a trained model into canonical ONNX in the new folder `out`, and prove the reading.

    `source` is a file, a folder (SavedModel, Transformers), a Keras model in memory, of any backend, or a
    `torch.nn.Module` in memory with its `example_inputs`: a tensor, a tuple, or a dict by the names of
    forward's parameters (floats of standard normal values, if `shapes` says enough). `signature` chooses one
    of a SavedModel's or a Transformers folder's; `custom_objects` is a Python file with the layers that a
    Keras file needs. Raises `UsageError` for a source that is wrong or not trusted, `Unsupported` for one
    that cannot be read faithfully.
    """
    place = Path(out)
    with source_file(source, example_inputs) as (file, own), new_folder(place) as folder:
        options = _source(file, state, trust or own, shapes, dynamic, signature, custom_objects)
        model = read_model(options, out=folder, runner=StepRunner(on_event=on_event))
    here = place.absolute()
    return replace(model, path=here / model.path.name, unfolded=here / model.unfolded.name)


def prune(
    source: str | Path | Any,
    *,
    out: str | Path,
    options: PruningOptions,
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Model:
    """Read a trained model, prune it and write both forms of the smaller graph to the new folder `out`.

    What comes back is a source like any other: `out/model.onnx` can be converted. Its `notes` say what went
    and how the network scores. `source` is that of `open`. Raises `Unsupported`, with the layers and why,
    where nothing of the network can be pruned.
    """
    place = Path(out)
    runner = StepRunner(deadline_s=deadline_s, on_event=on_event)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
        file, own = stack.enter_context(source_file(source, example_inputs))
        read = _source(file, state, trust or own, shapes, None, signature, custom_objects)
        model = read_model(read, out=scratch, runner=runner)
        smaller = pruned(model, options, runner=runner)
        with new_folder(place) as folder:
            for path in {smaller.path, smaller.unfolded}:
                shutil.copyfile(path, folder / path.name)
    here = place.absolute()
    return replace(smaller, path=here / smaller.path.name, unfolded=here / smaller.unfolded.name)


def convert(
    source: str | Path | Any,
    *,
    targets: Sequence[str],
    output: str | Path,
    precisions: Sequence[Precision] = ("int8",),
    calibration: Data | CalibrationOptions | None = None,
    quantization: QuantizationOptions | None = None,
    validation: ValidationOptions | None = None,
    budgets: Budgets | None = None,
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: Mapping[str, Sequence[str]] | None = None,
    simplify: bool = True,
    quantized_io: bool = False,
    layout: Literal["", "source", "nhwc"] = "",
    labels: str | Path = "",
    allow_refused: Sequence[str] = (),
    overwrite: bool = False,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Lower a model for every target and precision into the new folder `output`, with its report.

    `source`, `signature`, `custom_objects` and `example_inputs` are those of `open`.
    `calibration` (needed for "int8") is a path, a `DataSource`, arrays by input name with samples on the
    first axis, `CalibrationOptions`, or an iterable (see `edgekit.core.samples.spool`), which is read once
    and never held whole. `quantization` chooses algorithms, nodes that keep a precision, and
    the rescue, which needs `budgets` and the samples of `validation` to judge by. `dynamic` names the
    dimensions of inputs that stay dynamic ("" for one that does not). `layout` replaces that of every target.
    `labels` is a text file that the artifacts carry, one class a line. `allow_refused` names
    "target/precision" pairs whose refusal does not fail the verdict. Raises `EdgekitError`; nothing is
    written then.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-"))
        file, own = stack.enter_context(source_file(source, example_inputs))
        if calibration is not None and not isinstance(calibration, CalibrationOptions):
            calibration = CalibrationOptions(data=_data(calibration, Path(scratch)))
        return run(
            Recipe(
                source=_source(file, state, trust or own, shapes, dynamic, signature, custom_objects),
                targets=tuple(targets),
                precisions=tuple(precisions),
                output=str(output),
                calibration=calibration,
                quantization=quantization or QuantizationOptions(),
                validation=validation,
                budgets=budgets or Budgets(),
                simplify=simplify,
                quantized_io=quantized_io,
                layout=layout,
                labels=str(labels),
                allow_refused=tuple(allow_refused),
                overwrite=overwrite,
                deadline_s=deadline_s,
            ),
            on_event=on_event,
        )


def train_quantized(
    source: str | Path | Any,
    *,
    targets: Sequence[str],
    output: str | Path,
    training: Data | TrainingOptions,
    calibration: Data | CalibrationOptions | None = None,
    distill: DistillationOptions | None = None,
    ranges: Literal["learned", "observed"] = "learned",
    quantization: QuantizationOptions | None = None,
    validation: ValidationOptions | None = None,
    budgets: Budgets | None = None,
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    overwrite: bool = False,
    deadline_s: float = 3600.0,
    on_event: Listener = silent,
) -> Report:
    """Quantize a model for every target, train the int8 graphs together, and lower what came out.

    `training` is `TrainingOptions`, or samples as `convert` takes them for calibration; with "labels" among
    the arrays they are learned, without the answers of the float network are, as with `distill`.
    `calibration` is by default the first source of the training samples. The rest is as in `convert`.
    Raises `EdgekitError`; nothing is written then, but a run that was interrupted goes on where it stopped.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
        file, own = stack.enter_context(source_file(source, example_inputs))
        if not isinstance(training, TrainingOptions):
            training = TrainingOptions(data=(_data(training, scratch),))
        if calibration is None:
            calibration = CalibrationOptions(data=training.data[0])
        if not isinstance(calibration, CalibrationOptions):
            place = scratch / "calibration"
            place.mkdir()
            calibration = CalibrationOptions(data=_data(calibration, place))
        return run(
            Recipe(
                source=_source(file, state, trust or own, shapes, None, signature, custom_objects),
                targets=tuple(targets),
                output=str(output),
                calibration=calibration,
                quantization=quantization or QuantizationOptions(),
                qat=QatOptions(training=training, ranges=ranges),
                distill=distill,
                validation=validation,
                budgets=budgets or Budgets(),
                overwrite=overwrite,
                deadline_s=deadline_s,
            ),
            on_event=on_event,
        )


def validate(
    output: str | Path,
    *,
    data: Data,
    metric: Metric = "accuracy",
    judged_output: str = "",
    max_accuracy_drop: float | None = None,
    beside: Sequence[Beside] = (),
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Judge every artifact under `output` beside the source on the same samples; updates its report.

    `data` is a path, a `DataSource`, arrays by input name and "labels", or an iterable of samples. A limit
    that is given joins those the report was judged by before. `beside` are `.tflite` files of other makers
    that get a row of their own, compared but not judged; they stay in the report. Raises `EdgekitError`; the
    report on disk stays as it was then, but for rows that joined it.
    """
    out = Path(output)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        options = ValidationOptions(data=_data(data, Path(scratch)), metric=metric, output=judged_output)
        known = _beside(out, beside, deadline_s, on_event)
        report = _validate(out, known, options, deadline_s=deadline_s, on_event=on_event)
    return _finish(_bound(report, max_accuracy_drop=max_accuracy_drop), out)


def benchmark(
    output: str | Path,
    *,
    options: BenchmarkOptions | None = None,
    max_latency_ms: float | None = None,
    min_speedup: float | None = None,
    beside: Sequence[Beside] = (),
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Time every artifact under `output` beside the float source, interleaved; updates its report.

    `beside` is that of `validate`.
    """
    out = Path(output)
    known = _beside(out, beside, deadline_s, on_event)
    report = _benchmark(
        out, known, options or BenchmarkOptions(), deadline_s=deadline_s, on_event=on_event
    )
    return _finish(_bound(report, max_latency_ms=max_latency_ms, min_speedup=min_speedup), out)


def analyze(
    source: str | Path | Any,
    *,
    target: str,
    calibration: Data | CalibrationOptions,
    data: Data | None = None,
    metric: Metric | None = None,
    samples: int = 32,
    judged_output: str = "",
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Sensitivity:
    """Rank every node that `target` runs in int8 by the damage it does alone, and what keeping it float buys.

    Judged on at most `samples` of `data` (None: of the calibration samples), beside the float network; with
    `metric` the data needs labels. Raises `EdgekitError`.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-"))
        file, own = stack.enter_context(source_file(source, example_inputs))
        if not isinstance(calibration, CalibrationOptions):
            calibration = CalibrationOptions(data=_data(calibration, Path(scratch)))
        held_out = None
        if data is not None:
            place = Path(scratch) / "data"
            place.mkdir()
            held_out = _data(data, place)
        return _analyze(
            _source(file, state, trust or own, shapes, None, signature, custom_objects),
            target=target,
            calibration=calibration,
            options=AnalysisOptions(data=held_out, metric=metric, output=judged_output, most=samples),
            deadline_s=deadline_s,
            on_event=on_event,
        )


def run(recipe: Recipe | str | Path, *, on_event: Listener = silent) -> Report:
    """Everything from one recipe. The report's verdict says whether the budgets were kept.

    Raises `EdgekitError` when the recipe, the model or the samples are wrong or no artifact could be made;
    nothing is written then, and an older output folder stays as it was.
    """
    asked = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe))
    place = Path(asked.output)
    with new_folder(place, overwrite=asked.overwrite) as out:
        mend = Rescuer() if asked.quantization.rescue else None
        report = _convert(asked, out, on_event=on_event, mend=mend)
        if asked.validation is not None:
            report = _validate(out, report, asked.validation, deadline_s=asked.deadline_s, on_event=on_event)
        if asked.benchmark is not None:
            report = _benchmark(out, report, asked.benchmark, deadline_s=asked.deadline_s, on_event=on_event)
        return _finish(replace(report, budgets=asked.budgets, allow_refused=asked.allow_refused), out)


def _beside(out: Path, files: Sequence[Beside], deadline_s: float, on_event: Listener) -> Report:
    """The report under `out`, with a row for each file."""
    report = read_report(out)
    if not files:
        return report
    return _finish(place_beside(out, report, files, deadline_s=deadline_s, on_event=on_event), out)


def _bound(report: Report, **limits: float | None) -> Report:
    """The report with the limits that were given added to those it was judged by before."""
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return replace(report, budgets=replace(report.budgets, **given))  # type: ignore[arg-type]


def _finish(report: Report, out: Path) -> Report:
    judged = judge(report, report.budgets, report.allow_refused)
    write_report(judged, out)
    return judged


def _source(
    source: str | Path,
    state: str | Path,
    trust: bool,
    shapes: Mapping[str, Sequence[int]] | None,
    dynamic: Mapping[str, Sequence[str]] | None = None,
    signature: str = "",
    custom_objects: str | Path = "",
) -> SourceOptions:
    fixed = {name: tuple(int(d) for d in dims) for name, dims in (shapes or {}).items()}
    named = {name: tuple(dims) for name, dims in (dynamic or {}).items()}
    return SourceOptions(
        model=str(source),
        state=str(state),
        signature=signature,
        custom_objects=str(custom_objects),
        trust=trust,
        shapes=fixed,
        dynamic=named,
    )


def _data(data: Data, scratch: Path) -> DataSource:
    if isinstance(data, DataSource):
        return data
    if isinstance(data, Mapping):
        if not data:
            raise UsageError("no arrays were given", hint="pass input name -> array, samples first")
        path = scratch / "samples.npz"
        save_npz(path, data)
        return DataSource(path=str(path))
    if isinstance(data, (str, Path)):
        return DataSource(path=str(data))
    if isinstance(data, Iterable):
        spool(data, scratch / "samples")
        return DataSource(path=str(scratch / "samples"))
    raise UsageError(
        f"samples: got {type(data).__name__}",
        hint="give a path, a DataSource, arrays by input name, or an iterable of samples",
    )

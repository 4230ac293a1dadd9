"""Artifacts out: converted, trained for int8, or all that a recipe says."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgekit.api.arguments import Data, data_source, source_options
from edgekit.api.judging import finish
from edgekit.core.events import Listener, silent
from edgekit.core.files import new_folder
from edgekit.core.qat import QatOptions
from edgekit.core.recipe import (
    Budgets,
    CalibrationOptions,
    QuantizationOptions,
    Recipe,
    ValidationOptions,
    load_recipe,
)
from edgekit.core.report import Report
from edgekit.core.target import Precision
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.pipeline.benchmark import benchmark
from edgekit.pipeline.convert import convert as _convert
from edgekit.pipeline.validate import validate
from edgekit.search.rescue import Rescuer

__all__ = ["convert", "run", "train_quantized"]


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
    reading = source_options(
        source,
        example_inputs,
        state=state,
        trust=trust,
        signature=signature,
        custom_objects=custom_objects,
        shapes=shapes,
        dynamic=dynamic,
    )
    with reading as options, tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        if calibration is not None and not isinstance(calibration, CalibrationOptions):
            calibration = CalibrationOptions(data=data_source(calibration, Path(scratch)))
        return run(
            Recipe(
                source=options,
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
    ranges: Literal["learned", "observed", "alone"] = "learned",
    start: Literal["equalized", "plain"] = "equalized",
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
    `calibration` is by default the first source of the training samples. `ranges` and `start` are those of
    `QatOptions`. The rest is as in `convert`.
    Raises `EdgekitError`; nothing is written then, but a run that was interrupted goes on where it stopped.
    """
    reading = source_options(
        source,
        example_inputs,
        state=state,
        trust=trust,
        signature=signature,
        custom_objects=custom_objects,
        shapes=shapes,
    )
    with reading as options, tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        if not isinstance(training, TrainingOptions):
            training = TrainingOptions(data=(data_source(training, Path(scratch, "training")),))
        if calibration is None:
            calibration = CalibrationOptions(data=training.data[0])
        if not isinstance(calibration, CalibrationOptions):
            calibration = CalibrationOptions(data=data_source(calibration, Path(scratch, "calibration")))
        return run(
            Recipe(
                source=options,
                targets=tuple(targets),
                output=str(output),
                calibration=calibration,
                quantization=quantization or QuantizationOptions(),
                qat=QatOptions(training=training, ranges=ranges, start=start),
                distill=distill,
                validation=validation,
                budgets=budgets or Budgets(),
                overwrite=overwrite,
                deadline_s=deadline_s,
            ),
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
            report = validate(out, report, asked.validation, deadline_s=asked.deadline_s, on_event=on_event)
        if asked.benchmark is not None:
            report = benchmark(out, report, asked.benchmark, deadline_s=asked.deadline_s, on_event=on_event)
        return finish(replace(report, budgets=asked.budgets, allow_refused=asked.allow_refused), out)

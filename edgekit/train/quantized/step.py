"""The step: QDQ graphs in, the same graphs with trained codes and scales out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.codec import decode, encode
from edgekit.core.files import atomic_file
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.qat import QatOptions
from edgekit.core.target import Int8Policy
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.placement import place
from edgekit.train.data import TrainingData, training_data
from edgekit.train.loop import Trained, train
from edgekit.train.objective import check_batch, judge_of, objective_of
from edgekit.train.quantized.export import trained_graph
from edgekit.train.quantized.features import expose_layers
from edgekit.train.quantized.graph import Quantized, Ranges, fake_quantized
from edgekit.train.quantized.several import in_turn
from edgekit.train.rates import kept_rate, long_enough, with_rate

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["open_graphs", "train_graphs", "train_quantized_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The float network: the graph that was quantized, and the file that teaches."""

    proto: ModelProto
    path: Path


def train_quantized_file(
    *,
    model: str,
    graphs: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
    signature: dict[str, Any],
    distillation: dict[str, Any] | None = None,
    keep: Sequence[str] = (),
    leave_float: bool = True,
    checkpoint: str = "",
) -> dict[str, Any]:
    """Step: train QDQ graphs, each {"qdq", "policy", "out"}, and write what came out to their "out".

    `model` is the float ONNX file they were quantized from, `keep` and `leave_float` as they were then.
    Returns {"metric", "initial", "score", "best", "epochs"}.
    """
    onnx = require("onnx", needed_for="quantization-aware training")
    require("torch", needed_for="quantization-aware training")
    chosen = decode(QatOptions, options, where="qat")
    soft = decode(DistillationOptions, distillation, where="distill") if distillation is not None else None
    source = _Source(proto=onnx.load(model), path=Path(model))
    data = training_data(
        chosen.training, decode(Signature, signature, where="signature"), need_labels=False
    )
    policies = [decode(Int8Policy, g["policy"], where="policy") for g in graphs]
    paths = [Path(g["qdq"]) for g in graphs]
    opened = open_graphs(source.proto, paths, policies, chosen, keep=keep, leave_float=leave_float)
    place_ = Path(checkpoint) if checkpoint else None
    done = train_graphs(opened, source.path, data, chosen.training, distillation=soft, checkpoint=place_)
    for quantized, graph in zip(opened, graphs, strict=True):
        trained = trained_graph(quantized)
        with atomic_file(Path(graph["out"])) as temporary:
            temporary.write_bytes(trained.SerializeToString(deterministic=True))
    if place_ is not None:
        for left in (place_, kept_rate(place_)):
            left.unlink(missing_ok=True)
    answer: dict[str, Any] = encode(done)
    return answer


def open_graphs(
    model: ModelProto,
    graphs: Sequence[Path],
    policies: Sequence[Int8Policy],
    options: QatOptions,
    *,
    keep: Sequence[str] = (),
    leave_float: bool = True,
) -> list[Quantized]:
    """The QDQ graphs of `model` by their policies, as modules; of several, weights that learn are shared."""
    index = index_graph(model)
    alone = options.ranges == "alone"
    ranges = Ranges(activations=options.ranges != "observed", weights=options.ranges == "learned")
    shared: dict[str, Any] | None = {} if len(graphs) > 1 and not alone else None
    opened = [
        fake_quantized(
            path, model, place(index, policy, keep=keep, leave_float=leave_float), policy, ranges=ranges,
            shared=shared,
        )
        for path, policy in zip(graphs, policies, strict=True)
    ]  # fmt: skip
    for quantized in opened if alone else ():
        quantized.train_scales_alone()
    return opened


def train_graphs(
    graphs: Sequence[Quantized],
    source: Path,
    data: TrainingData,
    options: TrainingOptions,
    *,
    distillation: DistillationOptions | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train modules that share weights, in turn, in place.

    The float network `source` (an ONNX file) is the teacher where `distillation` is given, and where the
    samples carry no labels. Raises what `edgekit.train.loop.train` raises, and `UsageError` for batches that
    the graph cannot take.
    """
    modules = [g.module for g in graphs]
    if distillation is not None and distillation.features:
        expose_layers(modules, source, distillation.features)
    module = modules[0] if len(modules) == 1 else in_turn(modules)
    check_batch(module, options)
    teacher = source if distillation is not None or not data.has_labels else None
    objective = objective_of(module, teacher, data, options, distillation or DistillationOptions())
    judge = judge_of(module, objective, data, options)

    def turn(step: int, steps: int) -> None:
        module.turn = step

    options = long_enough(options, data)
    several = turn if len(modules) > 1 else None
    options = with_rate(
        module, objective, data, options, judge=judge, checkpoint=checkpoint, before_step=several
    )
    return train(
        module, objective, data, options, judge=judge, checkpoint=checkpoint, before_step=several
    )


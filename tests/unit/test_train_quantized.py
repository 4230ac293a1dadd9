"""Fake-quantized modules: what they start as, what trains, what bounds hold, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from quantize_models import classifier, pictures, run
from saturation import offending

from edgekit.core.codec import encode
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.qat import QatOptions
from edgekit.core.recipe import CalibrationOptions, DataSource, QuantizationOptions, Recipe, SourceOptions
from edgekit.core.target import Int8Policy, load_target
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.errors import StepError, UsageError
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize
from edgekit.train.from_graph import trainable
from edgekit.train.quantized.export import trained_graph
from edgekit.train.quantized.fake import activation_quantizer
from edgekit.train.quantized.graph import Quantized
from edgekit.train.quantized.step import open_graphs, train_quantized_file

TARGETS = ["tflite", "openvino", "onnxruntime"]
SIGNATURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, 5)),),
)


def policy(target: str) -> Int8Policy:
    found = load_target(target).int8
    assert found is not None
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, TARGET.onnx (its QDQ graphs), samples.npz (96 pictures, labelled as the network does)."""
    folder = tmp_path_factory.mktemp("quantized")
    model = classifier()
    onnx.save(model, folder / "model.onnx")
    ranges = calibrate(model, pictures(16), policies=[policy(t) for t in TARGETS])
    for target in TARGETS:
        onnx.save(quantize(model, calibration=ranges, policy=policy(target))[0], folder / f"{target}.onnx")
    shown = pictures(96, seed=5)
    labels = np.array([int(run(model, p)["logits"].argmax()) for p in shown])
    images = np.concatenate([p["image"] for p in shown])
    np.savez(folder / "samples.npz", image=images, labels=labels)
    np.savez(folder / "unlabelled.npz", image=images)
    np.savez(folder / "wrong.npz", image=images, labels=labels + 1)
    return folder


def training(place: Path, name: str = "unlabelled.npz", **changes: Any) -> TrainingOptions:
    data = (DataSource(path=str(place / name)),)
    return TrainingOptions(**{"data": data, "epochs": 2, "batch_size": 16, "threads": 1, **changes})


def opened(place: Path, *targets: str) -> list[Quantized]:
    return open_graphs(
        onnx.load(place / "model.onnx"), [place / f"{t}.onnx" for t in targets],
        [policy(t) for t in targets], QatOptions(training=training(place)),
    )  # fmt: skip


def step(place: Path, out: Path, *targets: str, options: QatOptions, **more: Any) -> dict[str, Any]:
    rows = [
        {"qdq": str(place / f"{t}.onnx"), "policy": encode(policy(t)), "out": str(out / f"{t}.onnx")}
        for t in targets
    ]
    return train_quantized_file(
        model=str(place / "model.onnx"), graphs=rows, options=encode(options),
        signature=encode(SIGNATURE), **more,
    )  # fmt: skip


def constants(model: Any) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("target", TARGETS)
def test_before_training_the_graph_comes_back_to_the_last_bit(target: str, place: Path) -> None:
    [quantized] = opened(place, target)
    before, after = constants(onnx.load(place / f"{target}.onnx")), constants(trained_graph(quantized))
    assert before.keys() == after.keys()
    assert all(before[n].dtype == after[n].dtype and np.array_equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("target", TARGETS)
def test_the_module_answers_like_its_graph_in_training_and_evaluation(target: str, place: Path) -> None:
    [quantized] = opened(place, target)
    graph = onnx.load(place / f"{target}.onnx")
    shown = pictures(24, seed=9)
    expected = np.concatenate([run(graph, p)["logits"] for p in shown])
    images = torch.from_numpy(np.concatenate([p["image"] for p in shown]))
    for mode in (True, False):
        with torch.no_grad():
            got = quantized.module.train(mode)(images).numpy()
        assert ((got - expected) ** 2).sum() < 1e-4 * (expected**2).sum()  # single codes on an edge
        assert np.median(np.abs(got - expected)) < 1e-5


def test_every_weight_bias_and_free_scale_learns(place: Path) -> None:
    [quantized] = opened(place, "onnxruntime")
    images = torch.from_numpy(np.concatenate([p["image"] for p in pictures(8)]))
    quantized.module.train()(images).square().sum().backward()
    silent = [
        n for n, p in quantized.module.named_parameters() if p.requires_grad and not (p.grad != 0).any()
    ]
    assert silent == []


def test_the_gradient_of_a_scale_is_that_of_learned_step_sizes() -> None:
    quantizer = activation_quantizer(0.1, -10, 20, largest=float("inf"), learned=True).train()
    x = torch.tensor([0.13, 0.26, -5.0, 9.0], requires_grad=True)
    quantizer(x).sum().backward()
    codes_less_places = (1 - 1.3) + (3 - 2.6) - 10 + 20
    assert float(quantizer.delta.grad) == pytest.approx(0.1 * codes_less_places, rel=1e-5)
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_codes_that_were_trained_never_saturate_a_multiply_add(place: Path) -> None:
    [quantized] = opened(place, "onnxruntime")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for quantizer in quantized.weights.values():
            spread = torch.rand(quantizer.weight.shape, generator=generator)
            quantizer.weight.add_(spread * quantizer.weight.abs().max() * 2)
    nodes = {n.name: n for n in quantized.proto.graph.node}
    found = constants(trained_graph(quantized))
    paired = {name: q for name, q in quantized.weights.items() if q.paired == 1}
    assert paired
    for name in paired:
        codes = found[nodes[name].input[0]]
        assert codes.max() > 63
        assert offending(codes) == 0


def test_a_scale_does_not_pass_the_end_of_the_clip_before_it(place: Path) -> None:
    [quantized] = opened(place, "onnxruntime")
    [name] = [n for n in quantized.activations if n.startswith("depthwise.y")]
    quantizer = quantized.activations[name]
    with torch.no_grad():
        quantizer.delta.add_(5.0)
    assert float(quantizer.scale) == pytest.approx(max(6 / 255, float(quantizer.base)))
    free = quantized.activations[next(n for n in quantized.activations if n.startswith("stem.y"))]
    with torch.no_grad():
        free.delta.add_(1.0)
    assert float(free.scale) == pytest.approx(float(free.base) * np.e)


def test_tensors_that_share_a_scale_go_on_sharing_it(place: Path) -> None:
    [quantized] = opened(place, "tflite")
    joined, pooled = (
        quantized.activations[next(n for n in quantized.activations if n.startswith(start))]
        for start in ("joined", "pooled")
    )
    assert joined.delta is pooled.delta


def test_several_policies_share_weights_and_keep_their_own_scales(place: Path) -> None:
    first, second = opened(place, "tflite", "onnxruntime")
    one, two = ({q.weight for q in g.weights.values()} for g in (first, second))
    assert one == two
    scales = [{id(q.delta) for q in g.activations.values()} for g in (first, second)]
    assert scales[0].isdisjoint(scales[1])


def test_training_without_labels_brings_answers_nearer_and_repeats_itself(
    place: Path, tmp_path: Path
) -> None:
    options = QatOptions(training=training(place, epochs=6, learning_rate=2e-3))
    done = step(place, tmp_path, "tflite", "onnxruntime", options=options)
    assert done["metric"] == "validation loss"
    assert done["score"] < 0.9 * done["initial"]
    first = {t: (tmp_path / f"{t}.onnx").read_bytes() for t in ("tflite", "onnxruntime")}
    step(place, tmp_path, "tflite", "onnxruntime", options=options)
    assert first == {t: (tmp_path / f"{t}.onnx").read_bytes() for t in first}


def test_weights_of_four_bits_are_trained_as_such(place: Path, tmp_path: Path) -> None:
    narrow = replace(policy("tflite"), weight_bits=4)
    model = onnx.load(place / "model.onnx")
    ranges = calibrate(model, pictures(16), policies=[narrow])
    onnx.save(quantize(model, calibration=ranges, policy=narrow)[0], tmp_path / "start.onnx")
    graph = {"qdq": str(tmp_path / "start.onnx"), "policy": encode(narrow), "out": str(tmp_path / "out.onnx")}
    done = train_quantized_file(
        model=str(place / "model.onnx"), graphs=[graph], signature=encode(SIGNATURE),
        options=encode(QatOptions(training=training(place, epochs=10, learning_rate=3e-3))),
    )  # fmt: skip
    assert done["score"] < 0.9 * done["initial"]
    trained = constants(onnx.load(tmp_path / "out.onnx")).values()
    codes = [c.astype(int) for c in trained if c.dtype == np.int8 and c.ndim > 1]
    assert max(int(np.abs(c).max()) for c in codes) == 7


def test_observed_ranges_stay_as_calibration_found_them(place: Path, tmp_path: Path) -> None:
    options = QatOptions(training=training(place, held_out=0.0), ranges="observed")
    step(place, tmp_path, "onnxruntime", options=options)
    before, after = (constants(onnx.load(folder / "onnxruntime.onnx")) for folder in (place, tmp_path))
    scales = [n for n in before if n.endswith("_scale")]
    assert scales
    assert all(np.array_equal(before[n], after[n]) for n in scales)
    assert any(not np.array_equal(before[n], after[n]) for n in before)


def test_ranges_alone_leave_the_codes_of_weights_as_they_are_and_bring_answers_nearer(
    place: Path, tmp_path: Path
) -> None:
    options = QatOptions(training=training(place, epochs=6, learning_rate=5e-3), ranges="alone")
    done = step(place, tmp_path, "tflite", "onnxruntime", options=options)
    assert done["score"] < done["initial"]
    for target in ("tflite", "onnxruntime"):
        before, after = (constants(onnx.load(folder / f"{target}.onnx")) for folder in (place, tmp_path))
        weights = [n for n, v in before.items() if v.dtype == np.int8 and v.ndim > 1]
        assert weights
        assert all(np.array_equal(before[n], after[n]) for n in weights)
        scales = [n for n in before if n.endswith("_scale") and before[n].ndim == 0]
        assert any(not np.array_equal(before[n], after[n]) for n in scales)


def test_labels_out_of_range_are_named_before_training(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"label 5 is out of range: the output 'logits' has 5 scores"):
        step(place, tmp_path, "tflite", options=QatOptions(training=training(place, "wrong.npz")))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_turns_nan_keeps_the_last_checkpoint_and_writes_no_graph(
    place: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    options = QatOptions(
        training=training(place, "samples.npz", epochs=30, learning_rate=1e6, warmup=0.5, optimizer="sgd")
    )
    with pytest.raises(StepError, match=r"became (nan|inf)"):
        step(place, tmp_path, "onnxruntime", options=options, checkpoint=str(kept))
    assert [p.name for p in tmp_path.iterdir()] in ([], ["kept"])


def test_a_recipe_names_what_cannot_go_with_training() -> None:
    source, data = SourceOptions(model="m.onnx"), DataSource(path="d.npz")
    qat = QatOptions(training=TrainingOptions(data=(data,)))
    whole = Recipe(
        source=source, targets=("tflite",), output="out", calibration=CalibrationOptions(data=data), qat=qat
    )
    for changes, problem in (
        ({"precisions": ("float32",)}, "name the precision 'int8'"),
        ({"quantization": QuantizationOptions(keep={"n": "int16x8"})}, "keep 'int16x8'"),
        ({"distill": DistillationOptions(student=source)}, "give teacher and student a [finetune] table"),
    ):
        with pytest.raises(UsageError) as caught:
            replace(whole, **changes)
        assert any(problem in text for text in caught.value.problems)


@pytest.mark.parametrize("targets", [["tflite"], TARGETS])
def test_layers_of_the_float_network_teach_those_of_the_quantized_one(
    targets: list[str], place: Path, tmp_path: Path
) -> None:
    layers = trainable(place / "model.onnx").meta["layers"]
    options = QatOptions(training=training(place, learning_rate=1e-3, epochs=1))
    trained = {}
    for features in ((), (layers[0].path,)):
        taught = DistillationOptions(features=features, feature_weight=100.0)
        done = step(place, tmp_path, *targets, options=options, distillation=encode(taught))
        trained[features] = done["initial"], (tmp_path / "tflite.onnx").read_bytes()
    (plain, first), (more, second) = trained.values()
    assert more > plain  # the distance of the layer is part of the loss
    assert first != second


def test_a_layer_that_no_network_has_is_named(place: Path, tmp_path: Path) -> None:
    taught = encode(DistillationOptions(features=("nowhere*",)))
    with pytest.raises(UsageError, match="features: no layer has such a name"):
        step(place, tmp_path, "tflite", options=QatOptions(training=training(place)), distillation=taught)

"""The quantization steps of a conversion: what is made again and what comes from the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, pictures

from edgekit.core.about import About
from edgekit.core.files import digest_file
from edgekit.core.model import Model
from edgekit.core.recipe import CalibrationOptions, DataSource, QuantizationOptions, Recipe, SourceOptions
from edgekit.core.target import load_target
from edgekit.graph.canonical import signature_of
from edgekit.pipeline.job import Job
from edgekit.pipeline.quantizing import evened_out, quantized_graph
from edgekit.pipeline.steps import StepRunner

POLICY = load_target("tflite").int8


def uneven() -> onnx.ModelProto:
    """Two convolutions with channels of very different scale between them."""
    b = GraphBuilder()
    scales = np.array([1, 1, 1, 1, 1, 1, 1, 200], np.float32)
    first = b.random.standard_normal((8, 3, 3, 3)) * scales[:, None, None, None]
    second = b.random.standard_normal((4, 8, 1, 1)) / scales[:, None, None]
    b.constant("first.w", first.astype(np.float32))
    b.constant("second.w", second.astype(np.float32))
    y = b.add("Relu", [b.add("Conv", ["image", "first.w"], "first", kernel_shape=[3, 3])], "y")
    b.add("Conv", [y, "second.w"], "out", kernel_shape=[1, 1])
    return b.build({"image": [1, 3, 8, 8]}, ["out"])


@pytest.fixture
def job(tmp_path):
    """A job over that network, and the events of its steps as (label, state)."""
    path, data = tmp_path / "model.onnx", tmp_path / "samples.npz"
    model = uneven()
    onnx.save(model, str(path))
    np.savez(data, image=np.concatenate([p["image"] for p in pictures(8)]))
    events = []
    runner = StepRunner(on_event=lambda e: events.append((e.step, e.state)))
    digest = digest_file(path)
    read = Model(
        path=path, unfolded=path, source=str(path), format="onnx", signature=signature_of(model),
        digest=digest, source_digest=digest,
    )  # fmt: skip
    recipe = Recipe(
        source=SourceOptions(model=str(path)), targets=("tflite",), output=str(tmp_path / "out"),
        calibration=CalibrationOptions(data=DataSource(path=str(data)), method="minmax"),
    )  # fmt: skip
    made = Job(recipe=recipe, model=read, out=tmp_path, work=tmp_path, runner=runner, about=About())
    return made, events


def with_options(job: Job, **options) -> Job:
    return replace(job, recipe=replace(job.recipe, quantization=QuantizationOptions(**options)))


def test_a_tuned_graph_is_made_once_for_its_options(job):
    made, events = job
    first = quantized_graph(with_options(made, rounding="learned"), POLICY)
    label = next(step for step, state in events if "tuned on samples" in step and state == "done")
    events.clear()
    assert quantized_graph(with_options(made, rounding="learned"), POLICY) == first
    assert (label, "cached") in events
    assert not [step for step, state in events if state == "done"]
    other = quantized_graph(with_options(made, rounding="learned", weight_clipping="mse"), POLICY)
    assert other != first
    assert digest_file(quantized_graph(with_options(made), POLICY)) != digest_file(first)


def test_channels_are_evened_out_once_and_it_is_that_graph_which_is_quantized(job):
    made, events = job
    assert evened_out(made, [POLICY]) is made
    even = evened_out(with_options(made, equalize=True), [POLICY])
    assert even.model.digest != made.model.digest
    assert ("even out channels", "done") in events
    graph = onnx.load(str(quantized_graph(with_options(made, equalize=True), POLICY)))
    assert ("even out channels", "cached") in events
    scales = next(t for t in graph.graph.initializer if t.name == "first.w_scale")
    spread = onnx.numpy_helper.to_array(scales)
    assert spread.max() < 20 * spread.min()  # 200 times in the network as it was

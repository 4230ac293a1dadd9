"""The calibration pass against straightforward references on recorded activations."""

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, classifier, pictures, run

from edgekit.core.target import load_target
from edgekit.errors import InternalError, UsageError
from edgekit.quantize.calibrate import CalibrationRun, calibrate
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.observers import FloatHistogram, Method
from edgekit.quantize.observers.reductions import ROWS_FROM
from edgekit.quantize.observers.session import share_cores

POLICIES = [load_target(name).int8 for name in ("tflite", "onnxruntime")]


def recorded(model, samples, tensor):
    """Every value of an activation, by fetching it."""
    if tensor == "image":
        return np.concatenate([s["image"].ravel() for s in samples])
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    if tensor not in [o.name for o in watched.graph.output]:
        watched.graph.output.append(next(i for i in watched.graph.value_info if i.name == tensor))
    return np.concatenate([run(watched, s)[tensor].ravel() for s in samples])


def test_minmax_equals_the_extremes_of_recorded_activations():
    model, samples = classifier(), pictures(9)
    found = calibrate(model, samples, policies=POLICIES)
    assert found.samples == 9
    assert {"image", "stem.y", "depthwise.y", "joined", "logits"} <= set(found.ranges)
    for tensor in found.ranges:
        values = recorded(model, samples, tensor)
        np.testing.assert_allclose(found.ranges[tensor], (values.min(), values.max()), rtol=1e-5, atol=1e-6)


def test_no_tensor_between_a_convolution_and_its_activation_is_observed():
    found = calibrate(classifier(), pictures(2), policies=POLICIES)
    assert "stem" not in found.ranges
    assert "depthwise" not in found.ranges


def test_percentile_is_within_a_bin_of_the_reference_and_differs_from_minmax():
    model, samples = classifier(), pictures(40)
    samples[3]["image"][0, 0, 0, 0] = 500.0  # an outlier that min-max cannot ignore
    exact = calibrate(model, samples, policies=POLICIES)
    clipped = calibrate(model, samples, policies=POLICIES, method=Method(name="percentile", percentile=99.0))
    assert clipped.ranges["image"][1] < exact.ranges["image"][1] / 100
    for tensor in ("image", "joined", "logits"):
        values = recorded(model, samples, tensor)
        reference = np.percentile(values, [0.5, 99.5])
        np.testing.assert_allclose(clipped.ranges[tensor], reference, rtol=0.03, atol=1e-3)


def test_means_are_per_input_channel_over_all_samples():
    model, samples = classifier(), pictures(7)
    found = calibrate(model, samples, policies=POLICIES)
    expected = np.mean([s["image"] for s in samples], axis=(0, 1, 3, 4))
    np.testing.assert_allclose(found.means["image"], expected, atol=1e-6)
    assert len(found.means["flat"]) == 128


def test_a_nan_names_the_tensor_and_the_sample():
    samples = pictures(4)
    samples[2]["image"][0, 1, 2, 3] = np.nan
    with pytest.raises(UsageError, match=r"NaN or infinity at calibration sample 2"):
        calibrate(classifier(), samples, policies=POLICIES)


@pytest.mark.parametrize("method", ["auto", "moving-average"])
def test_samples_that_run_at_the_same_time_count_in_their_order(method):
    model, samples = classifier(), pictures(11)
    found = [
        calibrate(model, samples, policies=POLICIES, method=Method(name=method), threads=threads)
        for threads in (1, 4)
    ]
    assert found[0] == found[1]


def test_calls_that_run_at_the_same_time_have_256_mib_of_activations():
    shares = {}
    for side in (64, 1024, 2048, 4096):
        b = GraphBuilder()
        b.add("Relu", ["image"], "y")
        index = index_graph(b.build({"image": [1, 3, side, side]}, ["y"]))
        shares[side] = share_cores(index, 8)
    assert shares == {64: (8, 1), 1024: (8, 1), 2048: (2, 7), 4096: (1, 8)}


@pytest.mark.parametrize("channels", [12, 16])  # whole blocks of the engine's layout, and a block in part
def test_rows_of_a_large_tensor_are_taken_in_turn(channels):
    b = GraphBuilder()
    b.relu6(b.conv("image", "a", 3, channels, bias=False), "a.y")
    b.relu6(b.conv("a.y", "b", channels, channels), "b.y")
    b.add("Transpose", ["b.y"], "turned", perm=[0, 2, 3, 1])
    b.add("Add", ["turned", "turned"], "out")
    model = b.build({"image": [1, 3, 72, 40]}, ["out"])
    run = CalibrationRun(model, policies=POLICIES, method=Method(name="auto"))
    samples = pictures(4, (1, 3, 72, 40))
    shapes = index_graph(model).shapes
    for tensor in ("image", "a.y", "b.y", "turned", "out"):
        whole = recorded(model, samples, tensor).reshape(4, *shapes[tensor][1:])
        every = -(-whole[0].size // ROWS_FROM)
        for call, sample in enumerate(samples):
            _, values = run._run(sample, call)
            rows = whole[call][:, call % every :: every]
            np.testing.assert_allclose(values[tensor][0], rows, rtol=1e-5, atol=1e-5)


def test_an_empty_set_is_refused():
    with pytest.raises(UsageError, match="no calibration samples"):
        calibrate(classifier(), [], policies=POLICIES)


def test_one_sample_is_enough():
    assert calibrate(classifier(), pictures(1), policies=POLICIES).samples == 1


def test_the_histogram_covers_every_finite_float_without_knowing_the_range():
    values = np.array([0.0, -0.0, 1e-38, -1e-38, 1e38, -1e38, 1.0, -1.0], np.float32)
    histogram = FloatHistogram()
    histogram.update(values)
    low, high = histogram.distribution(float(values.min()), float(values.max())).percentile_range(100.0)
    assert low == pytest.approx(-1e38, rel=0.01)
    assert high == pytest.approx(1e38, rel=0.01)
    assert histogram.counts.sum() == values.size


def test_the_histogram_of_a_relu_starts_at_zero():
    values = np.maximum(np.random.default_rng(0).standard_normal(10_000), 0).astype(np.float32)
    histogram = FloatHistogram()
    histogram.update(values)
    assert histogram.distribution(0.0, float(values.max())).percentile_range(99.0)[0] == 0.0


def test_a_model_with_nothing_to_quantize_has_no_ranges():
    b = GraphBuilder()
    b.add("Exp", ["image"], "y")
    found = calibrate(b.build({"image": [1, 3, 8, 8]}, ["y"]), pictures(3), policies=POLICIES)
    assert found.ranges == {}
    assert found.samples == 3


def test_a_graph_without_shapes_is_a_defect_that_is_said():
    model = classifier()
    del model.graph.value_info[:]
    with pytest.raises(InternalError, match="shape_inference"):
        calibrate(model, pictures(1), policies=POLICIES)


def test_ranges_of_channels_are_those_of_recorded_activations():
    model, samples = classifier(), pictures(7)
    found = calibrate(model, samples, policies=POLICIES)
    assert set(found.channels) == set(found.means)
    image = np.stack([s["image"][0] for s in samples])
    np.testing.assert_array_equal(found.channels["image"], (image.min((0, 2, 3)), image.max((0, 2, 3))))
    joined = recorded(model, samples, "flat").reshape(7, 128)
    np.testing.assert_allclose(found.channels["flat"], (joined.min(0), joined.max(0)), rtol=1e-5, atol=1e-6)

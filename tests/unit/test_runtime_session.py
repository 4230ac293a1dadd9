"""The session: paths, named inputs and outputs, quantized I/O, layouts, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import runtime_models as models

from edgekit.errors import UsageError
from edgekit.runtime import Session


@pytest.fixture(scope="module")
def tflite(tmp_path_factory):
    models.need("ai_edge_litert")
    return models.tflite_artifact(tmp_path_factory.mktemp("out") / "tflite" / "int8")


def _image(seed=0, shape=(1, 8, 8, 2)):
    return np.random.default_rng(seed).normal(scale=4, size=shape).astype(np.float32)


def test_float_io_answers_like_native_io_with_the_manifest_scales(tflite):
    image = _image()
    steps = np.clip(np.rint(image / np.float32(0.05)) + 3, -128, 127).astype(np.int8)
    with Session(tflite, io="native") as native, Session(tflite, threads=1) as session:
        expected = native.run({"image": steps})["features"]
        got = session.run({"image": image})["features"]
    assert expected.dtype == np.int8
    assert len(np.unique(expected)) > 20
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, (expected.astype(np.float32) + 7) * np.float32(0.5))


def test_float_io_says_float_and_native_io_says_integers(tflite):
    with Session(tflite) as session, Session(tflite, io="native") as native:
        assert (session.inputs[0].dtype, session.inputs[0].scale) == ("float32", 0.0)
        assert (native.inputs[0].dtype, native.inputs[0].scale) == ("int8", 0.05)
        assert native.inputs[0].zero_point == 3


def test_quantizing_an_input_rounds_half_to_even_and_saturates(tflite):
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf], np.float32) * np.float32(0.05)
    image = np.zeros((1, 8, 8, 2), np.float32)
    image[0, 0, :4] = values.reshape(4, 2)
    with Session(tflite) as session:
        (prepared,) = session.prepare({"image": image})
    assert prepared.dtype == np.int8
    assert prepared[0, 0, :4].ravel().tolist() == [3, 5, 5, 3, 1, 127, -128, 127]


def test_quantizing_agrees_with_onnx_runtime_bit_for_bit(tflite):
    models.need("onnx", "onnxruntime")
    import onnxruntime
    from onnx import TensorProto, helper

    shape = (1, 8, 8, 2)
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])],
        "quantize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("q", TensorProto.INT8, shape)],
        [
            helper.make_tensor("s", TensorProto.FLOAT, [], [0.05]),
            helper.make_tensor("z", TensorProto.INT8, [], [3]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    reference = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with Session(tflite) as session:
        for seed in range(20):
            (prepared,) = session.prepare({"image": _image(seed)})
            np.testing.assert_array_equal(prepared, reference.run(None, {"x": _image(seed)})[0])


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_scale_belongs_to_a_small_integer(tmp_path, dtype):
    image = models.tensor("image", dtype, (1, 8), scale=0.1)
    folder = models.put_artifact(tmp_path, "tflite", b"", (image,), models.LOGITS)
    with pytest.raises(UsageError, match=f"'image' a scale but the dtype '{dtype}'"):
        Session(folder)


def test_a_quantized_scalar_stays_a_scalar(tmp_path):
    models.need("onnx", "onnxruntime")
    import onnx

    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT8, [])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT8, [])],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    content = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    inputs, outputs = ((models.tensor(n, "int8", (), scale=0.5, zero_point=1),) for n in "xy")
    folder = models.put_artifact(tmp_path, "onnxruntime", content, inputs, outputs)
    with Session(folder) as session:
        result = session.run({"x": np.array(2.25, np.float32)})["y"]
    assert result.shape == ()
    assert result == 2.0


def test_nan_in_a_quantized_input_is_refused(tflite):
    image = _image()
    image[0, 3, 3, 1] = np.nan
    with Session(tflite) as session, pytest.raises(UsageError, match="'image' holds NaN"):
        session.run({"image": image})


def test_source_layout_is_transposed_on_the_way_in_and_out(tflite):
    nhwc = _image()
    with Session(tflite) as plain, Session(tflite, layout="source") as source:
        assert source.inputs[0].shape == (1, 2, 8, 8)
        assert source.inputs[0].axes == ()
        assert source.outputs[0].shape == (1, 4, 8, 8)
        expected = plain.run({"image": nhwc})["features"]
        got = source.run({"image": nhwc.transpose(0, 3, 1, 2)})["features"]
    np.testing.assert_array_equal(got, expected.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_every_permutation_keeps_artifact_equal_to_source_transposed(tmp_path, axes):
    models.need("onnx", "onnxruntime")
    shape = (2, 3, 4)
    inputs = tuple(models.tensor(n, "float32", shape, axes=axes) for n in "ab")
    outputs = (models.tensor("total", "float32", shape, axes=axes),)
    content = models.sum_of_two(first=shape, second=shape)
    folder = models.put_artifact(tmp_path, "onnxruntime", content, inputs, outputs)
    with Session(folder, layout="source") as session:
        source_shape = session.inputs[0].shape
        a = np.arange(24, dtype=np.float32).reshape(source_shape)
        assert a.transpose(axes).shape == shape
        total = session.run({"a": a, "b": a * 10})["total"]
    np.testing.assert_array_equal(total, a * 11)


def test_every_wrong_input_is_named_at_once(tmp_path):
    with Session(models.onnx_sum(tmp_path)) as session, pytest.raises(UsageError) as caught:
        session.run({"a": np.zeros((2, 3)), "B": np.zeros((2, 3), np.float32)})
    text = str(caught.value)
    assert "input 'B' is unknown; allowed: a, b" in text
    assert "input 'a' is float64[2, 3], wanted float32[2, 3]" in text
    assert "input 'b' is missing: float32[2, 3]" in text


def test_an_extra_input_is_refused(tmp_path):
    a = np.zeros((2, 3), np.float32)
    with Session(models.onnx_sum(tmp_path)) as session:  # noqa: SIM117
        with pytest.raises(UsageError, match="input 'c' is unknown"):
            session.run({"a": a, "b": a, "c": a})


def test_a_list_is_not_an_array(tmp_path):
    with Session(models.onnx_sum(tmp_path)) as session, pytest.raises(UsageError, match="is a list"):
        session.run({"a": [[0.0] * 3] * 2, "b": np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_named_dimension_takes_any_size(tmp_path, engine):
    folder = models.onnx_sum(tmp_path, engine, ("batch", 3), ("batch", 3))
    with Session(folder, threads=1) as session:
        for n in (1, 4, 2):
            a = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
            np.testing.assert_array_equal(session.run({"a": a, "b": a})["total"], a * 2)


def test_a_named_dimension_has_one_size_in_all_inputs(tmp_path):
    folder = models.onnx_sum(tmp_path, "onnxruntime", ("batch", 3), ("batch", 3))
    with Session(folder) as session, pytest.raises(UsageError, match="different sizes"):
        session.run({"a": np.zeros((2, 3), np.float32), "b": np.zeros((1, 3), np.float32)})


def test_a_tflite_batch_can_change_between_calls(tmp_path):
    models.need("ai_edge_litert")
    folder = models.tflite_artifact(tmp_path, "float32", batch="batch")
    one, three = _image(1), _image(2, (3, 8, 8, 2))
    with Session(folder, threads=1) as session:
        first = session.run({"image": one})["features"]
        many = session.run({"image": three})["features"]
        again = session.run({"image": one})["features"]
        each = [session.run({"image": three[i : i + 1]})["features"] for i in range(3)]
    assert many.shape == (3, 8, 8, 4)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(many, np.concatenate(each), atol=1e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "tflite"])
def test_results_belong_to_the_caller(tmp_path, engine):
    if engine == "tflite":
        models.need("ai_edge_litert")
        folder = models.tflite_artifact(tmp_path, "float32")
        first, second = {"image": _image(1)}, {"image": _image(2)}
    else:
        folder = models.onnx_sum(tmp_path, engine)
        first, second = ({n: np.full((2, 3), v, np.float32) for n in "ab"} for v in (1, 2))
    with Session(folder, threads=1) as session:
        kept = next(iter(session.run(first).values()))
        copy = kept.copy()
        session.run(second)
        np.testing.assert_array_equal(kept, copy)
        kept[:] = 0
        np.testing.assert_array_equal(next(iter(session.run(first).values())), copy)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_array_in_fortran_order_is_read_rightly(tmp_path, engine):
    a = np.arange(6, dtype=np.float32).reshape(3, 2).T
    with Session(models.onnx_sum(tmp_path, engine), threads=1) as session:
        np.testing.assert_array_equal(session.run({"a": a, "b": a})["total"], a * 2)


def test_a_closed_session_says_so(tmp_path):
    session = Session(models.onnx_sum(tmp_path))
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run({n: np.zeros((2, 3), np.float32) for n in "ab"})
    with pytest.raises(UsageError, match="closed"):
        session.layers()

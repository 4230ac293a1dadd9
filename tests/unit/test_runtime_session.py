"""The session: paths, named inputs and outputs, quantized I/O, layouts, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runtime_models as models

from edgekit.errors import MissingPackage, StepError, Unsupported, UsageError
from edgekit.runtime import Session


@pytest.fixture(scope="module")
def tflite(tmp_path_factory):
    models.need("ai_edge_litert")
    return models.tflite_artifact(tmp_path_factory.mktemp("out") / "tflite" / "int8")


def _image(seed=0, shape=(1, 8, 8, 2)):
    return np.random.default_rng(seed).normal(scale=4, size=shape).astype(np.float32)


def _onnx_sum(folder, engine="onnxruntime", first=(2, 3), second=(2, 3), **more):
    models.need("onnx", engine)
    inputs = (models.tensor("a", "float32", first), models.tensor("b", "float32", second))
    outputs = (models.tensor("total", "float32", first),)
    content = models.sum_of_two(first=first, second=second)
    return models.put_artifact(folder, engine, content, inputs, outputs, precision="float32", **more)


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
    with Session(_onnx_sum(tmp_path)) as session, pytest.raises(UsageError) as caught:
        session.run({"a": np.zeros((2, 3)), "B": np.zeros((2, 3), np.float32)})
    text = str(caught.value)
    assert "input 'B' is unknown; allowed: a, b" in text
    assert "input 'a' is float64[2, 3], wanted float32[2, 3]" in text
    assert "input 'b' is missing: float32[2, 3]" in text


def test_an_extra_input_is_refused(tmp_path):
    a = np.zeros((2, 3), np.float32)
    with Session(_onnx_sum(tmp_path)) as session, pytest.raises(UsageError, match="input 'c' is unknown"):
        session.run({"a": a, "b": a, "c": a})


def test_a_list_is_not_an_array(tmp_path):
    with Session(_onnx_sum(tmp_path)) as session, pytest.raises(UsageError, match="is a list"):
        session.run({"a": [[0.0] * 3] * 2, "b": np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_named_dimension_takes_any_size(tmp_path, engine):
    folder = _onnx_sum(tmp_path, engine, ("batch", 3), ("batch", 3))
    with Session(folder, threads=1) as session:
        for n in (1, 4, 2):
            a = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
            np.testing.assert_array_equal(session.run({"a": a, "b": a})["total"], a * 2)


def test_a_named_dimension_has_one_size_in_all_inputs(tmp_path):
    folder = _onnx_sum(tmp_path, "onnxruntime", ("batch", 3), ("batch", 3))
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
        folder = _onnx_sum(tmp_path, engine)
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
    with Session(_onnx_sum(tmp_path, engine), threads=1) as session:
        np.testing.assert_array_equal(session.run({"a": a, "b": a})["total"], a * 2)


def test_a_closed_session_says_so(tmp_path):
    session = Session(_onnx_sum(tmp_path))
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run({n: np.zeros((2, 3), np.float32) for n in "ab"})
    with pytest.raises(UsageError, match="closed"):
        session.layers()


def test_a_target_folder_with_one_precision_is_enough(tmp_path):
    _onnx_sum(tmp_path / "onnxruntime" / "float32")
    with Session(tmp_path / "onnxruntime") as session:
        assert session.manifest.precision == "float32"


def test_a_target_folder_with_two_precisions_asks_which(tmp_path):
    _onnx_sum(tmp_path / "float32")
    _onnx_sum(tmp_path / "int8")
    with pytest.raises(UsageError, match=r"one of 'float32', 'int8'"):
        Session(tmp_path)
    with pytest.raises(UsageError, match="no 'int4' is here"):
        Session(tmp_path, precision="int4")
    with Session(tmp_path, precision="float32") as session:
        assert session.folder == tmp_path / "float32"


def test_the_precision_of_an_artifact_folder_must_be_the_one_asked(tmp_path):
    with pytest.raises(UsageError, match="this artifact is float32, not 'int8'"):
        Session(_onnx_sum(tmp_path), precision="int8")


def test_a_whole_conversion_names_its_targets(tmp_path):
    _onnx_sum(tmp_path / "onnxruntime" / "float32")
    with pytest.raises(UsageError, match=r"name a target's folder: .*onnxruntime"):
        Session(tmp_path)


def test_a_file_is_answered_with_the_folder_it_lies_in(tmp_path):
    folder = _onnx_sum(tmp_path)
    with pytest.raises(UsageError, match="this is a file, an artifact is a folder") as caught:
        Session(folder / "model.onnx")
    assert caught.value.hint == f"name the folder it lies in: {folder}"


def test_a_folder_without_an_artifact_and_no_folder_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match="no artifact is here"):
        Session(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        Session(tmp_path / "nowhere")


def test_wrong_choices_are_all_named(tmp_path):
    with pytest.raises(UsageError) as caught:
        Session(_onnx_sum(tmp_path), io="floats", layout="nchw", threads=0)
    assert len(caught.value.problems) == 3


def test_an_altered_model_file_is_not_loaded(tmp_path):
    folder = _onnx_sum(tmp_path)
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(UsageError, match="SHA-256 differs"):
        Session(folder)


@pytest.mark.parametrize(
    ("engine", "package"),
    [("tflite", "ai_edge_litert"), ("openvino", "openvino"), ("onnxruntime", "onnxruntime")],
)
def test_a_file_the_engine_cannot_read_is_a_typed_failure(tmp_path, engine, package):
    models.need(package)
    folder = models.put_artifact(tmp_path, engine, b"not a model at all" * 10, models.IMAGE, models.LOGITS)
    with pytest.raises(StepError, match=f"{engine} cannot load"):
        Session(folder)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_manifest_that_does_not_fit_the_model_is_refused(tmp_path, engine):
    models.need("onnx", engine)
    shape = (2, 3)
    content = models.sum_of_two(first=shape, second=shape)
    inputs = (models.tensor("a", "int8", shape), models.tensor("x", "float32", shape))
    outputs = (models.tensor("sum", "float32", shape),)
    folder = models.put_artifact(tmp_path, engine, content, inputs, outputs)
    with pytest.raises(UsageError) as caught:
        Session(folder)
    assert len(caught.value.problems) == 3
    assert "input 'a' is float32 in the model, int8 in the manifest" in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "modules", "extra"),
    [
        ("tflite", ("ai_edge_litert", "tflite_runtime", "tensorflow"), "tflite"),
        ("openvino", ("openvino",), "openvino"),
        ("onnxruntime", ("onnxruntime",), "onnx"),
    ],
)
def test_a_missing_engine_names_its_extra(tmp_path, monkeypatch, engine, modules, extra):
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.interpreter", None)
    folder = models.put_artifact(tmp_path, engine, b"", models.IMAGE, models.LOGITS)
    with pytest.raises(MissingPackage, match=rf"edgekit-toolchain\[{extra}\]"):
        Session(folder)


def test_an_unknown_engine_names_its_neighbour(tmp_path):
    folder = models.put_artifact(tmp_path, "onnxruntim", b"", models.IMAGE, models.LOGITS)
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        Session(folder)


def test_a_cuda_artifact_is_refused_where_the_provider_is_missing(tmp_path, monkeypatch):
    folder = _onnx_sum(tmp_path, options={"providers": "CUDAExecutionProvider"}, requires="cuda")
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(Unsupported) as caught:
        Session(folder)
    assert "no CUDAExecutionProvider" in caught.value.reasons[0].why
    assert "EDGEKIT_PYTHON_ONNXRUNTIME" in caught.value.reasons[0].hint


def test_a_cuda_provider_that_does_not_start_is_never_replaced_by_the_cpu(tmp_path, monkeypatch):
    folder = _onnx_sum(tmp_path, options={"providers": "CUDAExecutionProvider"}, requires="cuda")
    import onnxruntime

    class FallenBack:
        def __init__(self, model, options, *, providers, enable_fallback):
            assert enable_fallback == 0

        def disable_fallback(self):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    with pytest.raises(Unsupported, match="CUDAExecutionProvider did not start"):
        Session(folder)


@pytest.mark.parametrize("engine", ["tflite", "openvino"])
def test_only_onnx_runtime_artifacts_can_require_cuda(tmp_path, engine):
    folder = models.put_artifact(tmp_path, engine, b"", models.IMAGE, models.LOGITS, requires="cuda")
    with pytest.raises(Unsupported, match="requires 'cuda'"):
        Session(folder)


def test_cuda_required_but_not_asked_for_is_a_contradiction(tmp_path):
    folder = _onnx_sum(tmp_path, options={"providers": "CPUExecutionProvider"}, requires="cuda")
    with pytest.raises(UsageError, match="its first provider is 'CPUExecutionProvider'"):
        Session(folder)


@pytest.mark.parametrize(
    ("engine", "options", "says"),
    [
        ("onnxruntime", {"graph_optimisation": "all", "graph_optimization": "most"}, "graph_optimization"),
        ("openvino", {"INFERENCE_PRECISION_HIND": "f32"}, "did you mean 'INFERENCE_PRECISION_HINT'"),
        ("tflite", {"op_resolver": "builtins"}, "did you mean 'builtin'"),
        ("tflite", {"resolver": "auto"}, "'op_resolver'"),
    ],
)
def test_an_unknown_engine_option_names_its_neighbour(tmp_path, engine, options, says):
    if engine == "tflite":
        models.need("ai_edge_litert")
        folder = models.tflite_artifact(tmp_path, options=options)
    else:
        folder = _onnx_sum(tmp_path, engine, options=options)
    with pytest.raises(UsageError) as caught:
        Session(folder)
    assert says in str(caught.value)


def test_onnx_runtime_options_reach_the_session(tmp_path):
    options = {"graph_optimization": "disable", "session.x64quantprecision": "1"}
    with Session(_onnx_sum(tmp_path, options=options), threads=1) as session:
        live = session._engine._session.get_session_options()
    assert live.graph_optimization_level.name == "ORT_DISABLE_ALL"
    assert live.get_session_config_entry("session.x64quantprecision") == "1"
    assert live.intra_op_num_threads == 1


def test_openvino_options_reach_the_compiled_model(tmp_path):
    folder = _onnx_sum(tmp_path, "openvino", options={"INFERENCE_PRECISION_HINT": "f32"})
    with Session(folder, threads=1) as session:
        compiled = session._engine._compiled
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert "float" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_importing_the_runtime_loads_neither_numpy_nor_an_engine():
    code = (
        "import sys, edgekit.runtime; "
        "print([m for m in ('numpy', 'onnxruntime', 'openvino', 'ai_edge_litert') if m in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"

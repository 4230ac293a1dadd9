"""Loading an artifact: which folder is meant, what is refused, which options reach the engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import runtime_models as models

from edgekit.errors import MissingPackage, StepError, Unsupported, UsageError
from edgekit.runtime import Session


def test_a_target_folder_with_one_precision_is_enough(tmp_path):
    models.onnx_sum(tmp_path / "onnxruntime" / "float32")
    with Session(tmp_path / "onnxruntime") as session:
        assert session.manifest.precision == "float32"


def test_a_target_folder_with_two_precisions_asks_which(tmp_path):
    models.onnx_sum(tmp_path / "float32")
    models.onnx_sum(tmp_path / "int8")
    with pytest.raises(UsageError, match=r"one of 'float32', 'int8'"):
        Session(tmp_path)
    with pytest.raises(UsageError, match="no 'int4' is here"):
        Session(tmp_path, precision="int4")
    with Session(tmp_path, precision="float32") as session:
        assert session.folder == tmp_path / "float32"


def test_the_precision_of_an_artifact_folder_must_be_the_one_asked(tmp_path):
    with pytest.raises(UsageError, match="this artifact is float32, not 'int8'"):
        Session(models.onnx_sum(tmp_path), precision="int8")


def test_a_whole_conversion_names_its_targets(tmp_path):
    models.onnx_sum(tmp_path / "onnxruntime" / "float32")
    with pytest.raises(UsageError, match=r"name a target's folder: .*onnxruntime"):
        Session(tmp_path)


def test_a_file_is_answered_with_the_folder_it_lies_in(tmp_path):
    folder = models.onnx_sum(tmp_path)
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
        Session(models.onnx_sum(tmp_path), io="floats", layout="nchw", threads=0)
    assert len(caught.value.problems) == 3


def test_an_altered_model_file_is_not_loaded(tmp_path):
    folder = models.onnx_sum(tmp_path)
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
    folder = models.onnx_sum(tmp_path, options={"providers": "CUDAExecutionProvider"}, requires="cuda")
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(Unsupported) as caught:
        Session(folder)
    assert "no CUDAExecutionProvider" in caught.value.reasons[0].why
    assert "EDGEKIT_PYTHON_ONNXRUNTIME" in caught.value.reasons[0].hint


def test_a_cuda_provider_that_does_not_start_is_never_replaced_by_the_cpu(tmp_path, monkeypatch):
    folder = models.onnx_sum(tmp_path, options={"providers": "CUDAExecutionProvider"}, requires="cuda")
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
    folder = models.onnx_sum(tmp_path, options={"providers": "CPUExecutionProvider"}, requires="cuda")
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
        folder = models.onnx_sum(tmp_path, engine, options=options)
    with pytest.raises(UsageError) as caught:
        Session(folder)
    assert says in str(caught.value)


def test_onnx_runtime_options_reach_the_session(tmp_path):
    options = {"graph_optimization": "disable", "session.x64quantprecision": "1"}
    with Session(models.onnx_sum(tmp_path, options=options), threads=1) as session:
        live = session._engine._session.get_session_options()
    assert live.graph_optimization_level.name == "ORT_DISABLE_ALL"
    assert live.get_session_config_entry("session.x64quantprecision") == "1"
    assert live.intra_op_num_threads == 1


def test_openvino_options_reach_the_compiled_model(tmp_path):
    folder = models.onnx_sum(tmp_path, "openvino", options={"INFERENCE_PRECISION_HINT": "f32"})
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

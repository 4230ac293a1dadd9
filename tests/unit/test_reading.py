"""Reading a source into the canonical graph, end to end: real modules, real exporters, real runtimes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_models import answers, classifier, graph, needed, operators

from edgekit.core.files import digest_file
from edgekit.core.model import CANONICAL_OPSET, Model
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Unsupported, UsageError
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.steps import StepRunner

onnx = needed("onnx")
needed("onnxruntime")
needed("onnxsim")

class Tampering(StepRunner):
    """A runner whose simplifier scales one weight by 1.05."""

    def run(self, function: str, arguments: Mapping[str, Any], *, label: str) -> Any:
        value = super().run(function, arguments, label=label)
        if arguments.get("simplified"):
            model = onnx.load(arguments["out"])
            weight = max(model.graph.initializer, key=lambda t: len(t.raw_data))
            scaled = onnx.numpy_helper.to_array(weight) * np.float32(1.05)
            weight.CopyFrom(onnx.numpy_helper.from_array(scaled, weight.name))
            onnx.save(model, arguments["out"])
        return value


def read(source: str | Path, out: Path, runner: StepRunner | None = None, **options: Any) -> Model:
    simplify = options.pop("simplify", True)
    chosen = SourceOptions(model=str(source), **options)
    return read_model(chosen, out=out, runner=runner or StepRunner(deadline_s=300), simplify=simplify)


def onnx_file(path: Path, model: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_onnx_file_becomes_canonical_with_its_names_and_answers(tmp_path: Path) -> None:
    before = classifier(opset=13)
    model = read(onnx_file(tmp_path / "m.onnx", before), tmp_path / "out")
    after = onnx.load(model.path)
    assert model.path == tmp_path / "out" / "model.onnx"
    assert [str(t) for t in model.signature.inputs] == ["image: float32[1, 3, 8, 8]"]
    assert [str(t) for t in model.signature.outputs] == ["logits: float32[1, 5]", "age: float32[1, 5]"]
    assert after.opset_import[0].version == CANONICAL_OPSET
    assert sorted(operators(after)) == ["Conv", "Flatten", "Gemm", "Gemm", "GlobalAveragePool", "Relu"]
    assert model.digest == digest_file(model.path)
    assert model.source_digest == digest_file(tmp_path / "m.onnx")
    assert any("fixed to 1" in note for note in model.notes)
    inputs = {"image": np.random.default_rng(7).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    expected, got = answers(before, inputs), answers(after, inputs)
    for name in ("logits", "age"):
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-5)
    assert not np.allclose(got["logits"], got["age"])
    assert set((tmp_path / "out").iterdir()) == {model.path, model.unfolded}


def test_the_same_file_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    first = read(onnx_file(tmp_path / "a" / "m.onnx", classifier()), tmp_path / "one")
    second = read(onnx_file(tmp_path / "b" / "other.onnx", classifier()), tmp_path / "two")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert str(tmp_path).encode() not in first.path.read_bytes()


def test_a_graph_that_is_not_simplified_is_folded_all_the_same(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", classifier(opset=21))
    model = read(path, tmp_path / "out", simplify=False, shapes={"image": (2, 3, 8, 8)})
    assert "BatchNormalization" not in operators(onnx.load(model.path))
    assert model.signature.outputs[0].shape == (2, 5)
    assert model.notes == ("not simplified: not asked for",)


def test_a_simplified_graph_with_a_weight_off_by_5_percent_is_caught(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", classifier())
    honest = read(path, tmp_path / "honest", simplify=False)
    model = read(path, tmp_path / "out", Tampering(deadline_s=300))
    [said] = [note for note in model.notes if "does not answer like" in note]
    assert "'logits'" in said
    assert "the first to differ is the node 'stem' (Conv)" in said
    assert model.path.read_bytes() == honest.path.read_bytes()


def test_external_data_ends_in_the_one_file(tmp_path: Path) -> None:
    onnx.save(
        classifier(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    model = read(tmp_path / "m.onnx", tmp_path / "out")
    (tmp_path / "m.data").unlink()
    assert onnx.load(model.path).graph.initializer[0].raw_data
    assert model.source_digest != digest_file(tmp_path / "m.onnx")


def test_a_dimension_left_open_gives_the_option_and_writes_nothing(tmp_path: Path) -> None:
    shape = {"x": (np.float32, ["N", "time"])}
    source = graph([onnx.helper.make_node("Relu", ["x"], ["y"])], shape, {"y": shape["x"]}, {})
    with pytest.raises(UsageError) as caught:
        read(onnx_file(tmp_path / "m.onnx", source), tmp_path / "out")
    assert "--shape x=1,TIME" in str(caught.value)
    assert caught.value.where == str(tmp_path / "m.onnx")
    assert not any((tmp_path / "out").iterdir())


def test_a_shape_that_depends_on_the_data_is_refused_with_the_node(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("NonZero", ["x"], ["y"], name="find")]
    source = graph(nodes, {"x": (np.float32, [2, 3])}, {"y": (np.int64, [2, None])}, {})
    with pytest.raises(Unsupported) as caught:
        read(onnx_file(tmp_path / "m.onnx", source), tmp_path / "out")
    assert caught.value.reasons[0].node == "find (NonZero)"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"state": "w.pt"}, "--state belongs to"), ({"opset": 17}, "opset: got 17")],
)
def test_an_option_that_does_not_apply_is_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        read(onnx_file(tmp_path / "m.onnx", classifier()), tmp_path / "out", **options)


def test_the_reading_loads_no_framework_in_the_caller() -> None:
    loaded = "sorted({'torch', 'onnx', 'onnxruntime', 'onnxsim'} & set(sys.modules))"
    code = f"import sys, edgekit.pipeline.reading; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_unfolded_form_keeps_batch_norm_under_the_same_names(tmp_path: Path) -> None:
    before = classifier(opset=13)
    model = read(onnx_file(tmp_path / "m.onnx", before), tmp_path / "out")
    folded, unfolded = onnx.load(model.path), onnx.load(model.unfolded)
    assert sorted(operators(unfolded)) == sorted([*operators(folded), "BatchNormalization"])
    names = {node.name for node in unfolded.graph.node}
    assert names > {node.name for node in folded.graph.node}
    inputs = {"image": np.random.default_rng(7).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    for name, expected in answers(folded, inputs).items():
        np.testing.assert_allclose(answers(unfolded, inputs)[name], expected, rtol=0, atol=1e-5)
    again = read(onnx_file(tmp_path / "m.onnx", before), tmp_path / "again")
    assert digest_file(again.unfolded) == digest_file(model.unfolded)


def test_without_batch_norm_both_forms_are_one_file(tmp_path: Path) -> None:
    shape = {"x": (np.float32, [1, 3])}
    source = graph([onnx.helper.make_node("Relu", ["x"], ["y"])], shape, {"y": shape["x"]}, {})
    model = read(onnx_file(tmp_path / "m.onnx", source), tmp_path / "out")
    assert model.unfolded == model.path


def test_an_unfolded_form_that_answers_otherwise_is_not_delivered(tmp_path: Path) -> None:
    class Tampering(StepRunner):
        def run(self, function: str, arguments: Any, *, label: str) -> Any:
            value = super().run(function, arguments, label=label)
            if function.endswith("canonical:finish"):
                bad = onnx.load(arguments["unfolded"])
                mean = next(t for t in bad.graph.initializer if t.name == "mean")
                mean.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(mean) + 1, "mean"))
                onnx.save(bad, arguments["unfolded"])
            return value

    with pytest.raises(Unsupported, match="does not answer like the source"):
        read(onnx_file(tmp_path / "m.onnx", classifier()), tmp_path / "out", Tampering(deadline_s=300))
    assert not any((tmp_path / "out").iterdir())

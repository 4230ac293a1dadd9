"""PyTorch modules in memory: exported where they live, given back as they were, proven elsewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from graph_models import needed

from edgekit import api
from edgekit.core.arrays import load_arrays
from edgekit.errors import Unsupported, UsageError
from edgekit.formats.torch_export import export
from edgekit.formats.torch_module import borrowed, module_file
from edgekit.graph.compare import first_difference
from edgekit.graph.evaluate import evaluate

for _package in ("onnx", "onnxruntime", "onnxscript", "onnxsim"):
    needed(_package)
torch = needed("torch")
from torch import nn  # noqa: E402

Box = namedtuple("Box", "corner size")


@dataclasses.dataclass
class Found:
    """What a detector of the caller's own returns."""

    scores: torch.Tensor
    box: Box
    aux: Any = None


class Twins(nn.Module):
    """Two outputs of one shape, a keyword-only input, a counter, parts in different modes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, image, *, gain=None):
        self.calls += 1
        y = self.drop(self.norm(self.conv(image)))
        return {"left": y if gain is None else y * gain, "right": -y, "note": None}


class States(nn.Module):
    """A pair of states goes in and comes out; a flag is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, state, full=True):
        y, (h, c) = self.lstm(x, state)
        return Found(y, Box(h, c)) if full else y


class Skips(nn.Module):
    """Looks at a mask, and takes another way when nothing is masked: what an exporter bakes in."""

    def forward(self, x, mask):
        return x if bool(mask.all()) else x * mask


class Gives(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


def exported(module: nn.Module, examples: Any, out: Path, exporter: str = "legacy") -> dict[str, Any]:
    """What the export of a module in this process gives, with the answers of its graph."""
    with module_file(module, examples) as file:
        read = export("torch-module", {"model": file}, exporter, str(out))
    got = [out / f"{i}.got.npz" for i in range(read["sets"])]
    inputs = [str(out / f"{i}.inputs.npz") for i in range(read["sets"])]
    evaluate(str(out / "exported.onnx"), inputs, [str(p) for p in got])
    pairs = [(load_arrays(out / f"{i}.outputs.npz"), load_arrays(p)) for i, p in enumerate(got)]
    return {**read, "pairs": pairs, "differences": [d for a, b in pairs if (d := first_difference(a, b))]}


def test_a_module_in_memory_is_read_and_given_back_as_it_was(tmp_path):
    torch.manual_seed(0)
    module = Twins().train()
    module.norm.eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    examples = {"image": torch.randn(1, 3, 8, 8), "gain": torch.full((1,), 2.0)}
    model = api.open(module, out=tmp_path / "a", example_inputs=examples)
    assert [str(t) for t in model.signature.inputs] == ["image: float32[1, 3, 8, 8]", "gain: float32[1]"]
    assert [t.name for t in model.signature.outputs] == ["left", "right"]
    assert model.source == "Twins (in memory)"
    assert module.training
    assert module.drop.training
    assert not module.norm.training
    assert module.calls.item() == 0
    assert torch.backends.mha.get_fastpath_enabled() == fast
    again = api.open(module, out=tmp_path / "b", example_inputs=examples)
    assert again.path.read_bytes() == model.path.read_bytes()
    assert again.source_digest == model.source_digest
    with torch.no_grad():
        module.conv.bias += 1
    changed = api.open(module, out=tmp_path / "c", example_inputs=examples)
    assert changed.source_digest != model.source_digest


def test_outputs_of_one_shape_are_paired_by_name_and_a_swap_is_seen(tmp_path):
    import onnx

    read = exported(Twins(), torch.randn(1, 3, 8, 8), tmp_path)
    assert read["differences"] == []
    graph = onnx.load(tmp_path / "exported.onnx")
    left, right = graph.graph.output
    assert (left.name, right.name) == ("left", "right")
    swapped = {"left": "right", "right": "left"}
    for node in graph.graph.node:
        node.output[:] = [swapped.get(name, name) for name in node.output]
        node.input[:] = [swapped.get(name, name) for name in node.input]
    onnx.save(graph, tmp_path / "swapped.onnx")
    inputs, answers = str(tmp_path / "0.inputs.npz"), tmp_path / "swapped.npz"
    evaluate(str(tmp_path / "swapped.onnx"), [inputs], [str(answers)])
    difference = first_difference(load_arrays(tmp_path / "0.outputs.npz"), load_arrays(answers))
    assert difference is not None
    assert difference.output == "left"


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_nested_inputs_and_outputs_are_named_by_their_places(tmp_path, exporter):
    zeros = torch.zeros(1, 1, 5)
    read = exported(States(), (torch.randn(1, 6, 4), (zeros, zeros.clone()), True), tmp_path, exporter)
    assert read["differences"] == []
    assert list(read["shapes"]) == ["x", "state.0", "state.1"]
    assert list(read["pairs"][0][0]) == ["scores", "box.corner", "box.size"]
    assert "the argument 'full' is fixed to True" in read["notes"]


def test_a_way_taken_only_when_nothing_is_masked_is_found_out(tmp_path):
    read = exported(Skips(), (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64)), tmp_path)
    assert len(read["differences"]) == 1
    with pytest.raises(Unsupported) as caught:
        api.open(Skips(), out=tmp_path / "out", example_inputs=(torch.ones(2, 3), torch.ones(2, 3)))
    legacy, dynamo = caught.value.reasons
    assert "does not answer like the module" in legacy.why
    assert "data-dependent" in dynamo.why
    assert caught.value.where == "Skips (in memory)"


@pytest.mark.parametrize(
    ("module", "examples", "words"),
    [
        (Twins(), None, ["'image' is not known", "example_inputs"]),
        (Twins(), 3, ["are a int"]),
        (Twins(), torch.zeros(1, 3, 8, 8).numpy(), ["are a ndarray"]),
        (Twins(), {"imag": torch.zeros(1)}, ["did you mean 'image'?"]),
        (Twins(), (torch.zeros(1),) * 3, ["3 example inputs for 1 parameters"]),
        (Twins(), torch.zeros(1, 4, 8, 8), ["raised RuntimeError on its example inputs", "[1, 4, 8, 8]"]),
        (Twins().bfloat16(), torch.zeros(1, 3, 8, 8).bfloat16(), ["bfloat16", "module.float()"]),
        (Gives(lambda x: object()), torch.zeros(1), ["is a object, a tensor is needed"]),
        (Gives(lambda x: 3), torch.zeros(1), ["returned int"]),
        (Gives(lambda x: {"a": {"b": x}, "a.b": x}), torch.zeros(1), ["two outputs are named 'a.b'"]),
        (nn.LazyLinear(3), torch.zeros(1, 2), ["has no shape yet", "call the module once"]),
        (nn.Linear(2, 3, device="meta"), torch.zeros(1, 2), ["holds no values", "load the weights"]),
    ],
)
def test_what_the_caller_can_correct_is_an_error_of_use(tmp_path, module, examples, words):
    with pytest.raises(UsageError) as caught:
        exported(module, examples, tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_number_among_the_outputs_is_left_out_and_said_so(tmp_path):
    read = exported(Gives(lambda x: (x + 1, 0.5)), torch.zeros(2), tmp_path)
    assert list(read["pairs"][0][0]) == ["output"]
    assert any("0.5, no tensor: it is left out" in note for note in read["notes"])


def test_a_module_out_of_its_wrappers_and_on_loan_only_while_it_is_read():
    with module_file(nn.DataParallel(Twins()), torch.zeros(1, 3, 8, 8)) as file:
        assert Path(file).name == "Twins.module"
        assert "tensors" in json.loads(Path(file).read_text())
        kept = Path(file).read_text()
    Path(file).parent.mkdir()
    Path(file).write_text(kept)
    from edgekit.core.recipe import SourceOptions

    with pytest.raises(UsageError, match="memory of another process"), borrowed(SourceOptions(model=file)):
        pass
    Path(file).unlink()
    Path(file).parent.rmdir()


def test_reading_one_framework_loads_no_other(tmp_path):
    """A factory, in a process of its own: neither TensorFlow nor Transformers nor an engine comes with it."""
    (tmp_path / "net.py").write_text(
        "import torch\ndef make(): return torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8)\n"
    )
    model, out = str(tmp_path / "net.py:make"), str(tmp_path / "out")
    code = (
        "import sys\nfrom edgekit.formats.torch_export import export\n"
        f"export('torch', {{'model': {model!r}}}, 'legacy', {out!r})\n"
        "others = {'tensorflow', 'keras', 'tf_keras', 'transformers', 'openvino', 'onnxruntime',"
        " 'ai_edge_litert', 'onnxscript', 'onnxsim'}\n"
        "print(sorted(others & set(sys.modules)))"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "PYTHONPATH": root},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.conformance
def test_five_readings_of_a_module_and_of_a_factory_give_the_same_bytes(tmp_path):
    source = (
        "import torch\nfrom torch import nn\ndef make():\n    torch.manual_seed(0)\n    return nn.Sequential("
        "nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU()), torch.zeros(1, 3, 8, 8)\n"
    )
    (tmp_path / "net.py").write_text(source)
    space: dict[str, Any] = {}
    exec(source, space)
    module, example = space["make"]()
    made = [api.open(module, out=tmp_path / f"m{i}", example_inputs=example) for i in range(5)]
    made += [api.open(f"{tmp_path}/net.py:make", out=tmp_path / f"f{i}") for i in range(5)]
    assert len({one.path.read_bytes() for one in made}) == 1

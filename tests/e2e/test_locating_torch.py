"""A PyTorch export that does not answer like its module: the module it goes wrong in is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from graph_models import needed

from edgekit import api
from edgekit.core.codec import encode
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Unsupported
from edgekit.formats.torch_export import export
from edgekit.formats.torch_inner import inner_values
from edgekit.formats.torch_module import module_file
from edgekit.graph.locate import first_value

onnx = needed("onnx")
for _package in ("onnxruntime", "onnxscript", "onnxsim"):
    needed(_package)
torch = needed("torch")
from torch import nn  # noqa: E402


class Halved(torch.autograd.Function):
    """Half of x, which the legacy exporter is told to write as x * 0.51."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Mul", x, g.op("Constant", value_t=torch.tensor(0.51)))


class Half(nn.Module):
    """A layer of the caller's own, with a symbolic that is wrong."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Halved.apply(x)


class Gate(nn.Module):
    """A branch that depends on how smooth the data are: the legacy exporter bakes what the example takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rough = float((x[..., 1:] - x[..., :-1]).abs().mean()) > 0.15
        return x * 2 if rough else x - 1


class Net(nn.Module):
    """What makes values hard to find: in place, shortcuts, states nobody reads, two answers of a layer."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.middle, self.tail = middle, nn.Conv2d(4, 4, 3, padding=1)
        self.lstm, self.head = nn.LSTM(32, 6, batch_first=True), nn.Linear(6, 3)
        self.unused = nn.Linear(8, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        self.unused(x)
        y = self.tail(self.middle(x)) + x
        states, _ = self.lstm(y.transpose(1, 2).flatten(2))
        return self.head(states[:, -1])


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return Net(middle).eval()


IMAGE = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)


def test_a_layer_with_a_wrong_symbolic_is_named(tmp_path):
    model = api.open(network(Half()), example_inputs=IMAGE, out=tmp_path / "out")
    [note] = [n for n in model.notes if "legacy exporter was not used" in n]
    assert "the module 'middle' (Half), whose value the graph does not hold" in note


def test_a_layer_whose_branch_was_baked_is_named(tmp_path):
    (tmp_path / "net.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_locating_torch as t\n"
        "def make():\n    return t.network(t.Gate()), t.IMAGE\n"
    )
    support = Path(__file__).resolve().parents[1] / "support"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(support), prepend=":")
        with pytest.raises(Unsupported) as caught:
            api.open(f"{tmp_path / 'net.py'}:make", out=tmp_path / "out")
    [legacy] = [r for r in caught.value.reasons if r.node == "legacy exporter"]
    assert "the module 'middle' (Gate), whose value the graph does not hold" in legacy.why


def altered(path: Path, layer: str) -> None:
    """Scale the weight of one layer in an ONNX file."""
    model = onnx.load(path)
    [weight] = [i for i in model.graph.initializer if i.name.endswith(f"{layer}.weight")]
    values = onnx.numpy_helper.to_array(weight) * 1.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), weight.name))
    onnx.save(model, path)


def looked_for(kind: Any, source: str, exporter: Any, folder: Path, layer: str = "") -> str:
    options = encode(SourceOptions(model=source, trust=True))
    export(kind, options, exporter, str(folder))
    if layer:
        altered(folder / "exported.onnx", layer)
    inputs, values = str(folder / "0.inputs.npz"), str(folder / "inner.npz")
    found = inner_values(kind, options, exporter, inputs, values)
    return first_value(values, str(folder / "exported.onnx"), inputs, found["reads"])


@pytest.mark.parametrize(
    ("exporter", "layer", "named"),
    [
        ("legacy", "", ""),
        ("legacy", "stem.0", "'stem.0' (Conv2d)"),
        ("legacy", "tail", "'tail' (Conv2d)"),
        ("legacy", "head", "'head' (Linear)"),
        ("dynamo", "", ""),
        ("dynamo", "tail", "'tail' (Conv2d)"),
    ],
)
def test_the_module_whose_weight_was_altered_is_named_and_none_of_a_right_export(
    tmp_path, exporter, layer, named
):
    with module_file(network(nn.Hardswish()), IMAGE) as source:
        assert looked_for("torch-module", source, exporter, tmp_path, layer) == named


@pytest.mark.parametrize(("layer", "named"), [("", ""), ("tail", "'conv2d_1' (aten.conv2d.default)")])
def test_an_operation_of_an_archive_is_named(tmp_path, layer, named):
    program = torch.export.export(network(nn.Hardswish()), (IMAGE,))
    torch.export.save(program, str(tmp_path / "net.pt2"))
    assert looked_for("torch-export", str(tmp_path / "net.pt2"), "dynamo", tmp_path, layer) == named

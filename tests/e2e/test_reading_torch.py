"""PyTorch sources become the canonical graph: real modules, real exporters, TorchScript, .pt2."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from graph_models import needed, operators

from edgekit.core.model import Model
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Unsupported, UsageError
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.steps import StepRunner

onnx = needed("onnx")
for _package in ("onnxruntime", "onnxscript", "onnxsim", "torch"):
    needed(_package)

NET = """
import torch
from torch import nn

def block(channels, out, stride=1):
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels), nn.Hardswish(),
        nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out),
    )

class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.one, self.two = block(8, 8), block(8, 16, 2)
        self.norm, self.head, self.other = nn.LayerNorm(16), nn.Linear(16, 5), nn.Linear(16, 5)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.running_mean)
                nn.init.uniform_(m.running_var, 0.5, 2.0)

    def forward(self, image):
        x = self.stem(image)
        x = self.two(x + self.one(x)).mean((2, 3))
        x = nn.functional.gelu(self.norm(x))
        return {"logits": self.head(x), "age": self.other(x)}

def make(): return Mobile(), torch.randn(1, 3, 32, 32)

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.lstm = nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True, bidirectional=True)
    def forward(self, ids, *, scale):
        y, (h, c) = self.lstm(self.table(ids) * scale)
        return y, h

def tagger(): return Tagger(), {"ids": torch.tensor([[0, 19, 3, 4]]), "scale": torch.ones(1)}

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)
    def forward(self, x):
        return self.dense(x) if x.sum() > 0 else -self.dense(x)

def branch(): return Branch(), torch.randn(1, 4)
def branch_of_zeros(): return Branch(), torch.zeros(1, 4)
"""

FILES = """
import sys, torch
class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop = torch.nn.Conv2d(3, 4, 3), torch.nn.Dropout(0.5)
    def forward(self, image, bias):
        y = torch.relu(self.drop(self.conv(image))).mean((2, 3))
        return y, y + bias
two = Two()
torch.jit.save(torch.jit.script(two), sys.argv[1] + "/script.pt")
batch = torch.export.Dim("batch")
program = torch.export.export(
    two.eval(), (torch.randn(2, 3, 8, 8), torch.randn(2, 4)), dynamic_shapes=({0: batch}, {0: batch})
)
torch.export.save(program, sys.argv[1] + "/dynamic.pt2")
"""


def read(source: str | Path, out: Path, **options: Any) -> Model:
    chosen = SourceOptions(model=str(source), **options)
    return read_model(chosen, out=out, runner=StepRunner(deadline_s=300))


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "net.py").write_text(NET)
    (folder / "files.py").write_text(FILES)  # torch.jit.script reads the source of a class from its file
    subprocess.run([sys.executable, str(folder / "files.py"), str(folder)], check=True, capture_output=True)
    return folder


def test_a_module_becomes_the_same_bytes_from_another_folder_and_keeps_rich_operators(
    torch_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "moved").mkdir()
    shutil.copy(torch_files / "net.py", tmp_path / "moved" / "net.py")
    first = read(f"{torch_files}/net.py:make", tmp_path / "one")
    second = read(f"{tmp_path}/moved/net.py:make", tmp_path / "two")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.source_digest == second.source_digest
    found = operators(onnx.load(first.path))
    assert found.count("HardSwish") == 3
    assert found.count("LayerNormalization") == found.count("Gelu") == 1
    assert "BatchNormalization" not in found
    assert "BatchNormalization" in operators(onnx.load(first.unfolded))
    assert [t.name for t in first.signature.inputs] == ["image"]
    assert [t.name for t in first.signature.outputs] == ["logits", "age"]
    assert "exported by PyTorch's legacy exporter at opset 20" in first.notes


def test_integers_keywords_and_nested_outputs_are_read(torch_files: Path, tmp_path: Path) -> None:
    model = read(f"{torch_files}/net.py:tagger", tmp_path / "out", shapes={"ids": (1, 7)})
    assert [str(t) for t in model.signature.inputs] == ["ids: int64[1, 7]", "scale: float32[1]"]
    assert [str(t) for t in model.signature.outputs] == [
        "output: float32[1, 7, 16]",
        "output_1: float32[2, 1, 8]",
    ]
    assert operators(onnx.load(model.path)).count("LSTM") == 1


@pytest.mark.parametrize("factory", ["branch", "branch_of_zeros"])
def test_a_branch_on_the_data_is_refused_with_the_reason_of_each_exporter(
    factory: str, torch_files: Path, tmp_path: Path
) -> None:
    with pytest.raises(Unsupported) as caught:
        read(f"{torch_files}/net.py:{factory}", tmp_path / "out")
    legacy, dynamo = caught.value.reasons
    assert "does not answer like the module: output 'output': differs by up to" in legacy.why
    assert "data-dependent: net.py:" in dynamo.why
    assert "torch.where" in dynamo.hint
    assert not any((tmp_path / "out").iterdir())


def test_torchscript_is_read_in_eval_mode_when_it_is_trusted(torch_files: Path, tmp_path: Path) -> None:
    shapes = {"image": (1, 3, 8, 8), "bias": (1, 4)}
    with pytest.raises(UsageError, match="run code"):
        read(torch_files / "script.pt", tmp_path / "out", shapes=shapes)
    model = read(torch_files / "script.pt", tmp_path / "out", shapes=shapes, trust=True)
    assert [str(t) for t in model.signature.inputs] == ["image: float32[1, 3, 8, 8]", "bias: float32[1, 4]"]
    assert [t.name for t in model.signature.outputs] == ["output", "output_1"]
    assert "Dropout" not in operators(onnx.load(model.path))


def test_an_exported_program_is_read_with_a_batch_of_1(torch_files: Path, tmp_path: Path) -> None:
    model = read(torch_files / "dynamic.pt2", tmp_path / "out", trust=True)
    assert [str(t) for t in model.signature.inputs] == ["image: float32[1, 3, 8, 8]", "bias: float32[1, 4]"]
    assert "exported by PyTorch's dynamo exporter" in model.notes
    assert "dimension 0 of the input 'image' was dynamic and is fixed to 1" in model.notes
    assert str(torch_files).encode() not in model.path.read_bytes()

"""Loading PyTorch sources: what does not fit is named. Every case runs in one child, so torch loads once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from graph_models import needed

needed("torch")
needed("onnx")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.drop = nn.Dropout(0.9)

    def forward(self, image, gain=None, *, offset=None):
        y = self.drop(self.conv(image))
        y = y if gain is None else y * gain
        return y if offset is None else y + offset

def make(): return Net()
def wide(): return Net(8)
def training(): return Net().train(), torch.zeros(1, 3, 8, 8)
def by_name(): return Net(), {"offset": torch.ones(1), "image": torch.zeros(2, 3, 8, 8)}
def bad_name(): return Net(), {"imagf": torch.ones(1)}
def too_many(): return Net(), tuple(torch.ones(1) for _ in range(9))
def no_tensor(): return Net(), [1.5]
def table(): return {"not": "a module"}
def broken(): raise ValueError("no weights here")
class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 2)
    def forward(self, ids):
        return self.table(ids)
def ids(): return Ids(), torch.tensor([[0, 6, 3]])
module = Net()
number = 3
"""

PREPARE = """
import sys; sys.path.insert(0, sys.argv[1])
import torch, net, pickle
from pathlib import Path
out = Path(sys.argv[1])
state = net.make().state_dict()
torch.save(state, out / "fits.pt")
torch.save({"state_dict": state, "epoch": 3}, out / "checkpoint.pt")
torch.save(net.wide().state_dict(), out / "wide.pt")
torch.save({**{k: v for k, v in state.items() if k != "conv.bias"}, "extra": torch.ones(1)}, out / "other.pt")
torch.save(net.make(), out / "module.pt")
torch.save([1, 2], out / "list.pt")
(out / "cut.pt").write_bytes((out / "fits.pt").read_bytes()[:300])
class Trap:
    def __reduce__(self):
        return (exec, (f"open({str(out / 'ran')!r}, 'w').close()",))
torch.save({"w": Trap()}, out / "trap.pt")
"""

RUN = """
import json, sys
from edgekit.core.codec import decode
from edgekit.core.recipe import SourceOptions
from edgekit.errors import EdgekitError
from edgekit.formats.torch_load import load_torch
answers = {}
for name, options in json.load(open(sys.argv[1])).items():
    try:
        source = load_torch("torch", decode(SourceOptions, options, where="case"))
        answers[name] = {
            "inputs": {n: [list(t.shape), str(t.dtype)] for n, t in source.inputs.items()},
            "by_keyword": sorted(source.by_keyword),
            "training": source.module.training,
            "notes": list(source.notes),
            "weight": float(next(source.module.parameters()).detach().sum()),
            "largest": max(float(t.max()) for t in source.inputs.values()),
        }
    except EdgekitError as err:
        answers[name] = {**err.to_json(), "text": str(err)}
json.dump(answers, open(sys.argv[2], "w"))
"""

IMAGE = {"image": [1, 3, 8, 8]}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"model": "make", "shapes": IMAGE},
    "again": {"model": "make", "shapes": IMAGE},
    "fits": {"model": "make", "shapes": IMAGE, "state": "fits.pt"},
    "checkpoint": {"model": "make", "shapes": IMAGE, "state": "checkpoint.pt"},
    "wide": {"model": "make", "shapes": IMAGE, "state": "wide.pt"},
    "other": {"model": "make", "shapes": IMAGE, "state": "other.pt"},
    "module": {"model": "make", "shapes": IMAGE, "state": "module.pt"},
    "list": {"model": "make", "shapes": IMAGE, "state": "list.pt"},
    "cut": {"model": "make", "shapes": IMAGE, "state": "cut.pt"},
    "trap": {"model": "make", "shapes": IMAGE, "state": "trap.pt"},
    "absent": {"model": "make", "shapes": IMAGE, "state": "absent.pt"},
    "training": {"model": "training"},
    "by_name": {"model": "by_name"},
    "object": {"model": "module", "shapes": IMAGE},
    "keyword": {"model": "make", "shapes": {**IMAGE, "offset": [1]}},
    "optional": {"model": "make", "shapes": {**IMAGE, "gain": [1]}},
    "reshaped": {"model": "ids", "shapes": {"ids": [2, 50]}},
    "no_shape": {"model": "make"},
    "wrong_shape_name": {"model": "make", "shapes": {"imag": [1, 3, 8, 8]}},
    "bad_name": {"model": "bad_name"},
    "too_many": {"model": "too_many"},
    "no_tensor": {"model": "no_tensor"},
    "table": {"model": "table", "shapes": IMAGE},
    "broken": {"model": "broken"},
    "number": {"model": "number"},
    "unknown": {"model": "maek"},
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("torch")
    (folder / "net.py").write_text(NET)
    cases = {
        name: {
            **case,
            "model": f"{folder}/net.py:{case['model']}",
            **({"state": str(folder / case["state"])} if "state" in case else {}),
        }
        for name, case in CASES.items()
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    files = [str(folder / "cases.json"), str(folder / "out.json")]
    script = f"{PREPARE}\nsys.argv[1:] = {files!r}\n{RUN}"
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd=root, capture_output=True)
    return json.loads((folder / "out.json").read_text()), folder


@pytest.fixture
def of(loaded: tuple[dict[str, Any], Path]) -> dict[str, Any]:
    return loaded[0]


def test_a_factory_and_a_shape_are_enough_and_weights_are_the_same_each_time(of: dict[str, Any]) -> None:
    assert of["plain"]["inputs"] == {"image": [[1, 3, 8, 8], "torch.float32"]}
    assert "no --state" in of["plain"]["notes"][0]
    assert of["plain"]["weight"] == of["again"]["weight"]


def test_a_module_made_in_training_mode_is_put_into_eval_mode(of: dict[str, Any]) -> None:
    assert of["training"]["training"] is False


def test_a_module_object_serves_as_well_as_a_function(of: dict[str, Any]) -> None:
    assert of["object"]["inputs"] == of["plain"]["inputs"]


def test_examples_by_name_follow_the_order_of_forward(of: dict[str, Any]) -> None:
    assert list(of["by_name"]["inputs"]) == ["image", "offset"]
    assert of["by_name"]["inputs"]["image"][0] == [2, 3, 8, 8]
    assert of["by_name"]["by_keyword"] == ["offset"]


def test_what_comes_after_a_parameter_left_out_is_passed_by_name(of: dict[str, Any]) -> None:
    assert of["keyword"]["by_keyword"] == ["offset"]
    assert of["optional"]["by_keyword"] == []


def test_an_integer_input_of_another_shape_stays_within_its_example(of: dict[str, Any]) -> None:
    assert of["reshaped"]["inputs"] == {"ids": [[2, 50], "torch.int64"]}
    assert of["reshaped"]["largest"] == 6


def test_a_state_dict_is_loaded_and_a_checkpoint_is_opened_and_said_so(of: dict[str, Any]) -> None:
    assert of["fits"]["notes"] == []
    assert of["checkpoint"]["weight"] == of["fits"]["weight"]
    assert of["checkpoint"]["notes"] == ["the weights are those under 'state_dict' in checkpoint.pt"]


def test_a_state_dict_that_does_not_fit_lists_every_key(of: dict[str, Any]) -> None:
    assert of["other"]["problems"] == ["missing: conv.bias", "unexpected: extra"]
    assert of["wide"]["problems"] == [
        "shape of conv.weight: the file has (8, 3, 3, 3), the module (4, 3, 3, 3)",
        "shape of conv.bias: the file has (8,), the module (4,)",
    ]


def test_a_pickle_is_never_loaded(loaded: tuple[dict[str, Any], Path]) -> None:
    answers, folder = loaded
    for name in ("trap", "module"):
        assert answers[name]["type"] == "UsageError"
        assert "more than tensors and is not loaded: a pickled " in answers[name]["message"]
        assert "torch.save(module.state_dict()" in answers[name]["hint"]
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("list", "the file holds a list"),
        ("cut", "not a state-dict file that can be read"),
        ("absent", "no such state file"),
        ("no_shape", "--shape image=1,3,224,224"),
        ("wrong_shape_name", "did you mean 'image'?"),
        ("bad_name", "did you mean 'image'?"),
        ("too_many", "9 example inputs for 2 parameters"),
        ("no_tensor", "'image' is a float"),
        ("table", "returned dict, a torch.nn.Module is needed"),
        ("broken", "broken() raised ValueError at net.py:24: no weights here"),
        ("number", "'number' is a int, a function is needed"),
        ("unknown", "has no 'maek'; did you mean 'make'?"),
    ],
)
def test_what_the_user_can_correct_is_an_error_of_use(of: dict[str, Any], case: str, words: str) -> None:
    assert of[case]["type"] == "UsageError"
    assert words in of[case]["text"]
    assert of[case]["where"]

"""Transformers folders: every part answers like the model, and what cannot be read says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers_readings import CASES

from edgekit import api
from edgekit.core.arrays import load_arrays
from edgekit.runtime import Session

pytestmark = pytest.mark.xdist_group("transformers")
SUPPORT = Path(__file__).resolve().parents[1] / "support"
TARGETS = ("tflite", "openvino", "onnxruntime")


@pytest.fixture(scope="module")
def read(
    tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]
) -> tuple[dict[str, Any], Path]:
    for package in ("transformers", "torch", "onnx", "onnxruntime"):
        need(package)
    folder = tmp_path_factory.mktemp("transformers")
    search = os.pathsep.join([str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "transformers_readings.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers, folder


PARTS = ("bert", "vit", "encoder", "decoder", "encoder-with-past", "decoder-with-past", "gpt")


@pytest.mark.parametrize("name", PARTS)
def test_a_part_answers_like_the_model_on_several_inputs(read, name):
    assert "error" not in read[0][name], read[0][name]["text"]
    assert read[0][name]["differences"] == []
    assert read[0][name]["sets"] >= 3


def test_parts_have_the_names_of_transformers_and_states_fit_together(read):
    of = read[0]
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert of["bert"]["inputs"] == {key: [1, 12] for key in names}
    assert of["bert"]["outputs"] == {"logits": [1, 3]}
    assert of["vit"]["inputs"] == {"pixel_values": [1, 3, 16, 16]}
    assert of["decoder"]["inputs"]["encoder_hidden_states"] == of["encoder"]["outputs"]["last_hidden_state"]
    step = of["decoder-with-past"]
    assert step["inputs"]["past_key_values.0.decoder.key"] == [1, 2, 8, 8]
    for name, shape in step["outputs"].items():
        if name != "logits":
            assert step["inputs"][name.replace("present.", "past_key_values.")] == shape
    crossed = of["encoder-with-past"]["outputs"]
    assert {n.replace("present.", "past_key_values.") for n in crossed} <= set(step["inputs"])


def test_examples_are_sensible_ids_lie_in_the_vocabulary_and_masks_mask(read):
    arrays = load_arrays(read[1] / "read" / "bert" / "0.inputs.npz")
    assert arrays["input_ids"].dtype == np.int64
    assert 0 <= arrays["input_ids"].min() < arrays["input_ids"].max() < 90
    assert sorted(set(arrays["attention_mask"].ravel())) == [0, 1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none chosen", ["'encoder', 'decoder', 'encoder-with-past'", "--signature encoder"]),
        ("unknown part", ["did you mean 'encoder'?"]),
        ("unknown shape", ["did you mean 'input_ids'?"]),
        ("other sizes", ["(1, 2)", "one step takes one token"]),
        ("no class", ["architectures", "save_pretrained"]),
        ("own code", ["'OwnNet'", "does not run", "module.py:factory"]),
        ("headless", ["2 parameters would be random", "missing: classifier.weight"]),
        ("weightless", ["cannot be loaded", "model.safetensors"]),
        ("damaged", ["not JSON", "copy or download it again"]),
    ],
)
def test_what_cannot_be_read_says_what_to_do(read, name, words):
    assert read[0][name]["error"] == "UsageError"
    for word in words:
        assert word in read[0][name]["text"]


def samples(name: str, folder: Path, count: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Calibration samples: other values of the kinds of the example."""
    random = np.random.default_rng(seed)
    made = {}
    for key, example in load_arrays(folder / "read" / name / "0.inputs.npz").items():
        shape = (count, *example.shape[1:]) if example.ndim > 1 else (count,)
        if example.dtype.kind == "f":
            made[key] = random.standard_normal(shape).astype(np.float32)
        elif "mask" in key:
            lengths = random.integers(2, shape[1] + 1, (count, 1))
            made[key] = (np.arange(shape[1])[None] < lengths).astype(np.int64)
        else:
            top = 8 if key == "position" else 2 if "type" in key else 90
            made[key] = random.integers(0, top, shape)
    return made


@pytest.mark.conformance
@pytest.mark.parametrize("name", PARTS)
def test_a_part_becomes_every_artifact(read, tmp_path, name):
    """float32 within 1e-4 of PyTorch's own answers; int8 above 15 dB of float32 on unseen samples.

    Several of them: some of these untrained networks give three numbers, whose ratio scatters by several dB
    (measured over eight samples: ViT, GPT-2 and the cached decoder 15.2 to 27.4).
    """
    model, signature, shapes = CASES[name]
    report = api.convert(
        read[1] / model, signature=signature, shapes=shapes, targets=TARGETS, precisions=("float32", "int8"),
        calibration=samples(name, read[1]), output=tmp_path / "out",
    )  # fmt: skip
    assert {a.status for a in report.artifacts} == {"ok"}, [
        (a.target, a.precision, a.notes) for a in report.artifacts
    ]
    inputs = load_arrays(read[1] / "read" / name / "0.inputs.npz")
    expected = load_arrays(read[1] / "read" / name / "0.outputs.npz")
    unseen = samples(name, read[1], count=8, seed=1)
    rows = [{key: values[i : i + 1] for key, values in unseen.items()} for i in range(8)]
    for target in TARGETS:
        got = {}
        for precision in ("float32", "int8"):
            with Session(tmp_path / "out" / target / precision, layout="source") as session:
                names = [io.name for io in session.inputs]
                if precision == "float32":
                    plain = session.run({key: inputs[key] for key in names})
                got[precision] = [session.run({key: row[key] for key in names}) for row in rows]
        assert plain.keys() == expected.keys()
        for key, values in expected.items():
            error = np.abs(plain[key] - values).max()
            assert error <= 1e-4 * np.abs(values).max() + 1e-6, (target, key)
            signal, rounded = (
                np.concatenate([answer[key].ravel() for answer in got[precision]]).astype(np.float64)
                for precision in ("float32", "int8")
            )
            ratio = np.square(signal).sum() / max(np.square(signal - rounded).sum(), 1e-30)
            assert 10 * np.log10(ratio) >= 15, (target, key)


@pytest.mark.conformance
def test_decoding_with_a_cache_says_what_decoding_without_says(read, tmp_path):
    """Greedy decoding of 8 tokens by the LiteRT artifacts, with and without a cache."""
    folder = read[1] / "t5"
    for part, shapes in (
        ("encoder", {"input_ids": (1, 10)}),
        ("decoder", {"encoder_attention_mask": (1, 10), "decoder_input_ids": (1, 8)}),
        ("encoder-with-past", {"input_ids": (1, 10)}),
        ("decoder-with-past", CASES["decoder-with-past"][2]),
    ):
        api.convert(
            folder, signature=part, shapes=shapes, targets=("tflite",), precisions=("float32",),
            output=tmp_path / part,
        )  # fmt: skip
    ids = np.random.default_rng(1).integers(0, 90, (1, 10))
    mask = np.array([[1] * 7 + [0] * 3])

    def opened(part: str) -> Session:
        return Session(tmp_path / part / "tflite", layout="source")

    with opened("encoder") as encoder, opened("decoder") as decoder:
        hidden = encoder.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
        tokens = np.zeros((1, 8), np.int64)
        plain = []
        for position in range(8):
            logits = decoder.run({
                "decoder_input_ids": tokens, "encoder_hidden_states": hidden, "encoder_attention_mask": mask,
            })["logits"]  # fmt: skip
            plain.append(logits[0, position])
            if position < 7:
                tokens[0, position + 1] = logits[0, position].argmax()
    with opened("encoder-with-past") as encoder, opened("decoder-with-past") as decoder:
        answer = encoder.run({"input_ids": ids, "attention_mask": mask})
        states = {io.name: np.zeros(io.shape, np.float32) for io in decoder.inputs if ".decoder." in io.name}
        states |= {n.replace("present.", "past_key_values."): v for n, v in answer.items()}
        token = 0
        for position in range(8):
            answer = decoder.run({
                "decoder_input_ids": np.array([[token]]), "position": np.array([[position]]),
                "encoder_attention_mask": mask, **states,
            })  # fmt: skip
            np.testing.assert_allclose(answer["logits"][0, 0], plain[position], rtol=0, atol=1e-4)
            token = int(answer["logits"][0, 0].argmax())
            kept = {n: v for n, v in answer.items() if n != "logits"}
            states |= {n.replace("present.", "past_key_values."): v for n, v in kept.items()}


@pytest.mark.conformance
@pytest.mark.parametrize(("model", "signature"), [("bert", ""), ("t5", "decoder")])
def test_five_readings_of_a_folder_give_the_same_bytes(read, tmp_path, model, signature):
    made = [api.open(read[1] / model, out=tmp_path / str(i), signature=signature) for i in range(5)]
    assert len({one.path.read_bytes() for one in made}) == 1

"""Tiny Transformers folders, and their parts exported in one process.

`python transformers_readings.py FOLDER` prints, as JSON on the last line, what came of every case: the inputs
and outputs of the graph and where it does not answer like the model, or the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgekit.core.arrays import load_arrays
from edgekit.errors import EdgekitError

CASES: dict[str, tuple[str, str, dict[str, tuple[int, ...]]]] = {
    "bert": ("bert", "", {"input_ids": (1, 12)}),
    "vit": ("vit", "", {}),
    "encoder": ("t5", "encoder", {"input_ids": (1, 10)}),
    "decoder": ("t5", "decoder", {"encoder_hidden_states": (1, 10, 16), "decoder_input_ids": (1, 6)}),
    "encoder-with-past": ("t5", "encoder-with-past", {}),
    "decoder-with-past": (
        "t5",
        "decoder-with-past",
        {"past_key_values.0.decoder.key": (1, 2, 8, 8), "encoder_attention_mask": (1, 10)},
    ),
    "gpt": ("gpt", "decoder-with-past", {}),
    "none chosen": ("t5", "", {}),
    "unknown part": ("t5", "encoderr", {}),
    "other sizes": ("t5", "decoder-with-past", {"decoder_input_ids": (1, 2)}),
    "unknown shape": ("bert", "", {"input_idz": (1, 12)}),
    "no class": ("nameless", "", {}),
    "own code": ("own", "", {}),
    "headless": ("headless", "", {}),
    "weightless": ("weightless", "", {}),
    "damaged": ("damaged", "", {}),
}


def make(folder: Path) -> None:
    """Save the tiny models, and folders that lack something."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    bert = hf.BertConfig(
        vocab_size=90, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    hf.BertForSequenceClassification(bert).save_pretrained(folder / "bert")
    hf.BertModel(bert).save_pretrained(folder / "headless")
    t5 = hf.T5Config(vocab_size=90, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    hf.T5ForConditionalGeneration(t5).save_pretrained(folder / "t5")
    gpt = hf.GPT2Config(vocab_size=90, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    hf.GPT2LMHeadModel(gpt).save_pretrained(folder / "gpt")
    vit = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16,
        patch_size=8, num_labels=3,
    )  # fmt: skip
    hf.ViTForImageClassification(vit).save_pretrained(folder / "vit")
    config = json.loads((folder / "bert" / "config.json").read_text())
    broken = {
        "nameless": {**config, "architectures": None},
        "own": {**config, "architectures": ["OwnNet"], "auto_map": {"AutoModel": "own.OwnNet"}},
        "headless": {**config, "architectures": ["BertForSequenceClassification"]},
        "weightless": config,
    }
    for name, changed in broken.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(changed))
    (folder / "damaged").mkdir(exist_ok=True)
    (folder / "damaged" / "config.json").write_text("{")


def main(place: str) -> None:
    """Make the folders and export every case; a refusal is an answer like any other."""
    from edgekit.core.codec import encode
    from edgekit.core.recipe import SourceOptions
    from edgekit.formats.torch_export import export
    from edgekit.graph.compare import first_difference
    from edgekit.graph.evaluate import evaluate

    folder = Path(place)
    make(folder)
    answers: dict[str, Any] = {}
    for name, (model, signature, shapes) in CASES.items():
        out = folder / "read" / name
        options = SourceOptions(model=str(folder / model), signature=signature, shapes=shapes)
        try:
            read = export("transformers", encode(options), "legacy", str(out))
        except EdgekitError as err:
            answers[name] = {"error": type(err).__name__, "text": str(err)}
            continue
        sets = range(read["sets"])
        got = [str(out / f"{i}.got.npz") for i in sets]
        evaluate(str(out / "exported.onnx"), [str(out / f"{i}.inputs.npz") for i in sets], got)
        pairs = [(load_arrays(out / f"{i}.outputs.npz"), load_arrays(Path(got[i]))) for i in sets]
        answers[name] = {
            "inputs": {n: list(v.shape) for n, v in load_arrays(out / "0.inputs.npz").items()},
            "outputs": {n: list(v.shape) for n, v in pairs[0][1].items()},
            "sets": read["sets"],
            "differences": [str(d) for a, b in pairs if (d := first_difference(a, b))],
        }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])

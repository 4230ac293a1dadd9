"""The examples in calibration/README.md and targets/README.md are files edgekit reads."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from edgekit.core.codec import decode_toml
from edgekit.core.files import data_folder
from edgekit.core.samples import (
    ArrayOptions,
    AudioOptions,
    ImageOptions,
    LabelOptions,
    SampleSpec,
    TableOptions,
)
from edgekit.core.target import Int8Policy, Target, WeightPolicy


def examples(kind: str) -> list[str]:
    text = (data_folder(kind) / "README.md").read_text(encoding="utf-8")  # type: ignore[arg-type]
    return re.findall(r"```toml\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(("kind", "cls", "count"), [("calibration", SampleSpec, 4), ("targets", Target, 1)])
def test_every_example_decodes(tmp_path: Path, kind: str, cls: type, count: int) -> None:
    found = examples(kind)
    assert len(found) == count
    for i, text in enumerate(found):
        (tmp_path / f"{i}.toml").write_text(text)
        decode_toml(cls, tmp_path / f"{i}.toml")


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("calibration", (SampleSpec, ImageOptions, ArrayOptions, TableOptions, AudioOptions, LabelOptions)),
        ("targets", (Target, Int8Policy, WeightPolicy)),
    ],
)
def test_every_field_has_an_example(kind: str, classes: tuple[type, ...]) -> None:
    text = "\n".join(examples(kind))
    missing = [
        f"{cls.__name__}.{field.name}"
        for cls in classes
        for field in fields(cls)
        if not re.search(rf"^(\[(\w+\.)?{field.name}(\.[\w-]+)?\]|{field.name} =)", text, re.MULTILINE)
    ]
    assert missing == []

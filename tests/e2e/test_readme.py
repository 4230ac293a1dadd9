"""The README's own commands, run in order, as a new user types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme import Outcome, readme_blocks

pytestmark = pytest.mark.xdist_group("readme")


def test_the_readme_has_blocks_that_run(root: Path) -> None:
    assert [language for language, _ in readme_blocks(root)] == ["bash", "python", "python", "python"]


def test_every_block_of_the_readme_runs(readme_run: list[Outcome]) -> None:
    for outcome in readme_run:
        assert outcome.code == 0, f"{outcome.block}\n{outcome.said}"


def test_the_readme_leaves_its_reports_behind(readme_place: Path, readme_run: list[Outcome]) -> None:
    for made in ("build/tour", "build/digits/out", "build/api"):
        assert (readme_place / made / "report.md").is_file(), made


def test_every_path_the_readme_links_to_exists(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (root / link).exists()] == []


def test_every_target_the_readme_lists_exists_and_none_is_missing(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w-]+)` \| yes", text, flags=re.MULTILINE))
    assert listed == {path.stem for path in (root / "targets").glob("*.toml")}

"""What every test shares: a cache folder of its own, and one way to need a package."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def edgekit_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary EDGEKIT_CACHE for the whole session (child processes inherit it)."""
    folder = tmp_path_factory.mktemp("edgekit-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A run in the background inherits an ignored SIGINT; the processes that tests interrupt must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def need() -> Callable[[str], None]:
    """`need("openvino")`: skip with a reason when the package is missing; fail when EDGEKIT_REQUIRE_ALL=1."""

    def check(module: str) -> None:
        if importlib.util.find_spec(module) is not None:
            return
        reason = f"the package {module!r} is not installed"
        if os.environ.get("EDGEKIT_REQUIRE_ALL") == "1":
            pytest.fail(f"{reason}, and EDGEKIT_REQUIRE_ALL=1")
        pytest.skip(reason)

    return check


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An EDGEKIT_CACHE of one test's own."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """An artifact whose engine misbehaves on demand: `fake_engine` in tests/support."""
    from fake_engine import fake_artifact

    return fake_artifact(tmp_path, monkeypatch)

"""Which format a source has, before anything is loaded."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError
from edgekit.formats import detect, digest_source, require_trust, split_factory


def archive(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for member in members:
            z.writestr(member, b"x")
    return path


def test_each_format_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(): ...\n")
    (tmp_path / "m.onnx").write_bytes(b"\x08\x09")
    script = archive(tmp_path / "s.pt", "s/code/__torch__.py", "s/constants.pkl", "s/data.pkl")
    exported = archive(tmp_path / "e.pt2", "e/archive_format", "e/models/model.json")
    assert detect(f"{tmp_path}/net.py:make") == "torch"
    assert detect(f"{tmp_path}/m.onnx") == "onnx"
    assert detect(str(script)) == "torchscript"
    assert detect(str(exported)) == "torch-export"


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin"])
def test_a_state_dict_alone_asks_for_the_module_it_belongs_to(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, "w/data.pkl", "w/data/0", "w/version")
    with pytest.raises(UsageError, match="state dict") as caught:
        detect(str(path))
    assert f"module.py:factory --state {name}" in caught.value.hint


def test_an_old_pickle_is_refused_without_being_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "ran"),))  # type: ignore[return-value]

    (tmp_path / "w.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UsageError, match=r"a pickled pathlib\S*\.Path\.touch: loading it can run any code"):
        detect(str(tmp_path / "w.pt"))
    assert not (tmp_path / "ran").exists()


def test_a_truncated_archive_is_called_damaged(tmp_path: Path) -> None:
    path = archive(tmp_path / "s.pt", "s/code/a.py", "s/constants.pkl")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UsageError, match="truncated or damaged"):
        detect(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.onnx", b"", "empty"),
        ("m.h5", b"x", "not a Keras file"),
        ("m", b"x", "no 'such' files"),
        ("m.pt", b"garbage-garbage", "not a PyTorch file"),
    ],
)
def test_a_file_of_no_known_format_says_what_is_read(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        detect(str(tmp_path / name))


def test_a_missing_file_a_folder_and_an_unknown_zip_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        detect(str(tmp_path / "absent.onnx"))
    with pytest.raises(UsageError, match="folder"):
        detect(str(tmp_path))
    with pytest.raises(UsageError, match="no known model format"):
        detect(str(archive(tmp_path / "a.pt", "readme.txt")))


@pytest.mark.parametrize("source", ["net.py", "net.py:", "net.py:two words"])
def test_a_python_file_without_a_factory_says_how_to_name_one(tmp_path: Path, source: str) -> None:
    (tmp_path / "net.py").write_text("")
    with pytest.raises(UsageError) as caught:
        detect(str(tmp_path / source))
    assert "net.py:factory" in caught.value.hint


def test_a_windows_like_path_keeps_its_colon() -> None:
    assert split_factory("C:/models/net.py:make") == (Path("C:/models/net.py"), "make")


@pytest.mark.parametrize("kind", ["torchscript", "torch-export"])
def test_what_can_run_code_needs_trust(kind: str) -> None:
    with pytest.raises(UsageError, match="run code") as caught:
        require_trust(kind, SourceOptions(model="m.pt"))  # type: ignore[arg-type]
    assert "--trust" in caught.value.hint
    require_trust(kind, SourceOptions(model="m.pt", trust=True))  # type: ignore[arg-type]


def test_a_python_file_is_trusted_by_being_named() -> None:
    require_trust("torch", SourceOptions(model="net.py:make"))
    require_trust("onnx", SourceOptions(model="m.onnx"))


def test_the_digest_of_a_source_follows_its_files_and_not_its_place(tmp_path: Path) -> None:
    digests = []
    for folder, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text("x = 1\n")
        (tmp_path / folder / "w.pt").write_bytes(weights)
        options = SourceOptions(model=f"{tmp_path}/{folder}/net.py:make", state=f"{tmp_path}/{folder}/w.pt")
        digests.append(digest_source("torch", options, []))
    assert digests[0] == digests[1] != digests[2]


def test_detecting_loads_no_framework() -> None:
    code = "import sys, edgekit.formats; print(sorted({'torch', 'onnx', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

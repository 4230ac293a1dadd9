"""Let PyTorch's legacy exporter write its weights last: inside, it holds them four times over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core.large_tensors import made_external, save_hollow
from edgekit.core.packages import require

__all__ = ["weights_apart"]

_DEFERRED = b"__EXTERNAL"  # what PyTorch writes instead of the data of a weight that it gives apart
_DEFER = 3  # the place of `defer_weight_export` among the arguments of Graph._export_onnx


@contextmanager
def weights_apart(path: Path) -> Iterator[None]:
    """While this is open, `torch.onnx.export(..., dynamo=False)` to `path` gives weights apart.

    At the end they are put into the file, one at a time: the same bytes as without.
    """
    graph = require("torch")._C.Graph
    plain = graph._export_onnx
    apart: dict[str, bytes] = {}

    def deferred(self: Any, *arguments: Any) -> Any:
        proto, weights, *more = plain(self, *arguments[:_DEFER], True, *arguments[_DEFER + 1 :])
        apart.clear()
        apart.update(weights)
        return (proto, {}, *more)

    graph._export_onnx = deferred
    try:
        yield
    finally:
        graph._export_onnx = plain
    _put_in(path, apart)


def _put_in(path: Path, apart: Mapping[str, bytes]) -> None:
    onnx = require("onnx")
    model = onnx.ModelProto.FromString(path.read_bytes())
    for tensor in model.graph.initializer:
        if tensor.raw_data != _DEFERRED:
            continue
        data = apart[tensor.name]
        if tensor.data_type in (1, 10, 11):
            made_external(tensor, "", 0, len(data))
        else:
            tensor.raw_data = data
    save_hollow(model, path, {name: np.frombuffer(data, np.uint8) for name, data in apart.items()})

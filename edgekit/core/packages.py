"""Optional packages, imported where they are needed and named when they are missing."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgekit.errors import MissingPackage

__all__ = ["EXTRAS", "installed_version", "require"]

# import name -> (distribution, extra that brings it)
EXTRAS: dict[str, tuple[str, str]] = {
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "onnxsim": ("onnxsim", "onnx"),
    "ai_edge_litert": ("ai-edge-litert", "tflite"),
    "openvino": ("openvino", "openvino"),
    "torch": ("torch", "torch"),
    "onnxscript": ("onnxscript", "torch"),
    "torch_pruning": ("torch-pruning", "torch"),
    "transformers": ("transformers", "transformers"),
    "tensorflow": ("tensorflow-cpu", "tensorflow"),
    "tf2onnx": ("tf2onnx", "tensorflow"),
    "keras": ("keras", "tensorflow"),
    "h5py": ("h5py", "tensorflow"),
    "PIL": ("pillow", "images"),
    "pyarrow": ("pyarrow", "parquet"),
    "rich": ("rich", "report"),
}


def require(module: str, *, needed_for: str = "") -> Any:
    """Import `module` (dotted names allowed) or raise `MissingPackage` with the extra that brings it.

    An installed package that fails while it is imported raises its own error: it is not missing.
    """
    top = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] != top:
            raise
        distribution, extra = EXTRAS.get(top, (top, "all"))
        raise MissingPackage(distribution, extra=extra, needed_for=needed_for) from err


def installed_version(distribution: str) -> str:
    """The installed version of a distribution, or "" when it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""

"""What ships to a device: numpy, the standard library and the one engine an artifact asks for.

    from edgekit.runtime import Session

    with Session("OUT/tflite") as session:
        outputs = session.run({"image": image_nchw})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.runtime.manifest import Manifest as Manifest
    from edgekit.runtime.manifest import read_manifest as read_manifest
    from edgekit.runtime.session import Session as Session

_PUBLIC = {
    "Manifest": "edgekit.runtime.manifest",
    "Session": "edgekit.runtime.session",
    "read_manifest": "edgekit.runtime.manifest",
}

__all__ = ["Manifest", "Session", "read_manifest"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgekit.runtime' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)

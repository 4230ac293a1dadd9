"""The child process of one step: `python -m edgekit.pipeline.child REQUEST RESULT`.

REQUEST is a JSON file {"function": "module:name", "arguments": {...}}; RESULT receives
{"value": ...} or {"error": ...}. The function takes JSON values by keyword and returns a JSON value.
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekit.core.files import disk_full_named, write_json
from edgekit.errors import EdgekitError, StepError

__all__ = ["main"]


def main(request: str, result: str) -> None:
    """Run the requested function and write its value, or its error, as JSON."""
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    module, _, name = asked["function"].partition(":")
    place = asked["arguments"].get("out", result)
    answer: dict[str, Any]
    try:
        with disk_full_named(Path(place[0] if isinstance(place, list) else place)):
            answer = {"value": getattr(import_module(module), name)(**asked["arguments"])}
    except EdgekitError as err:
        answer = {"error": err.to_json()}
    except MemoryError:
        traceback.print_exc()
        answer = {"error": StepError("ran out of memory", kind="out_of_memory").to_json()}
    except Exception as err:  # the border of the process: everything becomes a typed result
        traceback.print_exc()
        answer = {"error": StepError(f"{type(err).__name__}: {err}").to_json()}
    write_json(Path(result), answer)


if __name__ == "__main__":
    main(*sys.argv[1:])

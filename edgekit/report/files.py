"""report.json, read and written strictly, and report.md beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgekit.core.codec import decode, encode
from edgekit.core.files import write_json, write_text
from edgekit.core.report import Report
from edgekit.errors import InternalError, UsageError
from edgekit.report.markdown import render_markdown

__all__ = ["REPORT_JSON", "REPORT_MD", "SCHEMA", "read_report", "write_report"]

REPORT_JSON = "report.json"
REPORT_MD = "report.md"
SCHEMA = 1


def write_report(report: Report, out: Path) -> None:
    """Write OUT/report.json (strict JSON: a figure that is no number is a defect) and OUT/report.md."""
    data = encode(report)
    bad = _not_finite(data, "report")
    if bad:
        raise InternalError(f"figures that are no numbers: {', '.join(bad)}")
    text = render_markdown(report)
    write_json(out / REPORT_JSON, data)
    write_text(out / REPORT_MD, text)


def read_report(path: Path) -> Report:
    """The report in this file, or in this output folder.

    Raises `UsageError` when there is none, when it is damaged, or was written by a newer edgekit.
    """
    file = path / REPORT_JSON if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        hint = "name the output folder of `edgekit convert` or `edgekit run`"
        raise UsageError("no report here", where=str(file), hint=hint) from err
    except (ValueError, OSError) as err:
        raise UsageError(f"not a readable report: {err}", where=str(file)) from err
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(
            f"report schema {schema!r}, this edgekit reads {SCHEMA}",
            where=str(file),
            hint="use the edgekit version that wrote it, or convert again",
        )
    return decode(Report, data, where=str(file))


def _not_finite(value: Any, place: str) -> list[str]:
    if isinstance(value, float):
        return [] if math.isfinite(value) else [f"{place} = {value}"]
    if isinstance(value, dict):
        return [bad for key, item in value.items() for bad in _not_finite(item, f"{place}.{key}")]
    if isinstance(value, list):
        return [bad for i, item in enumerate(value) for bad in _not_finite(item, f"{place}[{i}]")]
    return []

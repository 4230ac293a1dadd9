"""Rendering the evidence: report.json and report.md beside the artifacts, a table for the terminal."""

from edgekit.report.files import read_report, write_report
from edgekit.report.markdown import render_markdown
from edgekit.report.sensitivity import render_sensitivity, render_sensitivity_markdown
from edgekit.report.terminal import render_table

__all__ = [
    "read_report", "render_markdown", "render_sensitivity", "render_sensitivity_markdown", "render_table",
    "write_report",
]

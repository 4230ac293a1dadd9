"""Where a reading goes wrong: asked only when an output of a graph is not the source's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.core.codec import encode
from edgekit.core.model import ModelFormat
from edgekit.core.recipe import SourceOptions
from edgekit.errors import EdgekitError
from edgekit.formats.tf_export import ENVIRONMENT
from edgekit.graph.compare import Difference
from edgekit.pipeline.steps import StepRunner

__all__ = ["Locate", "in_graph", "in_source", "named"]

Locate = Callable[[Path, Path], str]
"""Of a graph and a file of inputs on which it differs: words for what inside differs first, or ""."""

# The steps that write what a source computes inside (see `in_source`), and the environment they need.
_INNER: dict[ModelFormat, tuple[str, Mapping[str, str]]] = {
    "keras": ("edgekit.pipeline.reading_tf:inner_values", ENVIRONMENT),
    "saved-model": ("edgekit.pipeline.reading_tf:inner_values", ENVIRONMENT),
    "torch": ("edgekit.formats.torch_inner:inner_values", {}),
    "torch-module": ("edgekit.formats.torch_inner:inner_values", {}),
    "torch-export": ("edgekit.formats.torch_inner:inner_values", {}),
    "transformers": ("edgekit.formats.torch_inner:inner_values", {}),
}


def named(difference: Difference, locate: Locate, graph: Path, inputs: Path) -> Difference:
    """The difference with the first place inside that differs; as it was when that cannot be found out."""
    try:
        return replace(difference, first=locate(graph, inputs))
    except EdgekitError:  # the difference itself is the news; what hinders the search is not
        return difference


def in_graph(reference: Path | str, runner: StepRunner) -> Locate:
    """Look for the first node of a graph that answers otherwise than the ONNX file `reference`."""

    def locate(graph: Path, inputs: Path) -> str:
        files = {"reference": str(reference), "graph": str(graph), "inputs": str(inputs)}
        found = runner.run("edgekit.graph.locate:first_node", files, label="look for the node that differs")
        return f"the node {found}" if found else ""

    return locate


def in_source(
    kind: ModelFormat, source: SourceOptions, exporter: str, folder: Path, runner: StepRunner
) -> Locate:
    """Look for the first layer, module or operation of the source whose value the exported graph lacks.

    A format can be searched when `_INNER` has a step for it: called with kind, options, exporter, inputs and
    values, it runs the source on the file `inputs` and writes to `values` what it computes inside, in the
    order of execution; it returns {"kind": what a name stands for, "reads": see `first_value`}. When nothing
    is found there, `folder`/exported.onnx is what the graph is compared with, node by node.
    """

    def locate(graph: Path, inputs: Path) -> str:
        exported, values = folder / "exported.onnx", folder / "inner.npz"
        if kind in _INNER:
            step, environment = _INNER[kind]
            child = replace(runner, environment={**runner.environment, **environment})
            arguments: dict[str, Any] = {
                "kind": kind, "options": encode(source), "exporter": exporter, "inputs": str(inputs),
                "values": str(values),
            }  # fmt: skip
            label = "look into the source"
            if kind == "torch-module":  # it cannot be taken to another process
                from edgekit.formats.torch_inner import inner_values

                answer = runner.run_here(inner_values, arguments, label=label)
            else:
                answer = child.run(step, arguments, label=label)
            found = runner.run(
                "edgekit.graph.locate:first_value",
                {"values": str(values), "graph": str(exported), "inputs": str(inputs),
                 "reads": answer["reads"]},
                label="look for the value that differs",
            )  # fmt: skip
            values.unlink()
            if found:
                return f"the {answer['kind']} {found}, whose value the graph does not hold"
        return in_graph(exported, runner)(graph, inputs)

    return locate

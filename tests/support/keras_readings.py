"""Export many sources in one process, TensorFlow loaded once: `python keras_readings.py CASES FOLDER`.

CASES is JSON, name -> [format, batch, options]; prints name -> what came of it as JSON on the last line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from edgekit.core.arrays import load_arrays
from edgekit.errors import EdgekitError
from edgekit.formats.tf_export import ENVIRONMENT


def main(cases: str, folder: str) -> None:
    """Run every case; a refusal is an answer like any other."""
    os.environ.update(ENVIRONMENT)
    import onnx

    from edgekit.graph.compare import first_difference
    from edgekit.graph.evaluate import evaluate
    from edgekit.graph.locate import first_value
    from edgekit.pipeline.reading_tf import export, inner_values

    answers = {}
    for name, (kind, batch, options) in json.loads(Path(cases).read_text()).items():
        out = Path(folder) / name
        try:
            read = export(kind, options, batch, str(out))
        except EdgekitError as err:
            answers[name] = {"error": type(err).__name__, "text": str(err)}
            continue
        inputs = [out / f"{i}.inputs.npz" for i in range(read["sets"])]
        got = [out / f"{i}.got.npz" for i in range(read["sets"])]
        evaluate(str(out / "prepared.onnx"), [str(p) for p in inputs], [str(p) for p in got])
        graph = onnx.load(out / "prepared.onnx").graph
        inner = inner_values(kind, options, batch, str(inputs[0]), str(out / "inner.npz"))
        blamed = [
            first_value(str(out / "inner.npz"), str(file), str(inputs[0]), inner["reads"])
            for file in (out / "exported.onnx", _one_weight_scaled(out / "exported.onnx"))
        ]
        answers[name] = {
            "inputs": {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input},
            "outputs": [v.name for v in graph.output],
            "operators": sorted({node.op_type for node in graph.node}),
            "notes": read["notes"],
            "blamed": blamed,
            "differences": [
                str(d) for i in range(read["sets"])
                if (d := first_difference(load_arrays(out / f"{i}.outputs.npz"), load_arrays(got[i])))
            ],
        }  # fmt: skip
    print(json.dumps(answers))


def _one_weight_scaled(path: Path) -> Path:
    """A copy of the file whose largest weight is scaled by 1.05."""
    import onnx

    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda t: len(t.raw_data) if t.data_type == 1 else 0)
    scaled = (1.05 * onnx.numpy_helper.to_array(weight)).astype("float32")
    weight.CopyFrom(onnx.numpy_helper.from_array(scaled, weight.name))
    onnx.save(model, path.with_name("scaled.onnx"))
    return path.with_name("scaled.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])

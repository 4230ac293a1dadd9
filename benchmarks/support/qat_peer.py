"""torchao's quantization-aware training (PT2E) of an ONNX file, without labels: `qat_peer.py JSON`.

The module is ours (`edgekit.train.trainable`), as are teacher, samples, batches, loss, schedule and the
choice of the best epoch; quantizers, where they stand, observers and the export are torchao's and
torch.onnx's: X86's default for training, observers off in the second half. Prints the CPU time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.core.recipe import DataSource
from edgekit.core.training import TrainingOptions
from edgekit.train.data import training_data_of
from edgekit.train.from_graph import trainable
from edgekit.train.judging import Judge
from edgekit.train.loop import train
from edgekit.train.losses import Objective
from edgekit.train.rates import long_enough
from edgekit.train.teaching import Teacher


def main() -> None:
    """Train and export."""
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    begun = time.process_time()
    inputs = dict(np.load(asked["training"]))
    [(port, images)] = inputs.items()
    [answer] = trainable(Path(asked["model"])).meta["outputs"]
    example = (torch.zeros(2, *images.shape[1:]),)
    shapes: Any = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    network = trainable(Path(asked["model"])).eval()
    plain = torch.export.export(network, example, dynamic_shapes=shapes).module()
    quantizer = x86.X86InductorQuantizer().set_global(
        x86.get_default_x86_inductor_quantization_config(is_qat=True)
    )
    module = pt2e.allow_exported_model_train_eval(prepare_qat_pt2e(plain, quantizer))
    with torch.no_grad():
        for part in torch.from_numpy(dict(np.load(asked["calibration"]))[port]).split(50):
            module(part)

    def call(called: Any, given: Any) -> dict[str, Any]:
        return {answer: called(given[port])}

    def observe(step: int, steps: int) -> None:
        if step == steps // 2:
            module.apply(pt2e.disable_observer)

    options = TrainingOptions(
        data=(DataSource(path="in memory"),), steps=asked["steps"], epochs=asked["epochs"],
        learning_rate=asked["rate"], threads=1,
    )  # fmt: skip
    data = training_data_of(inputs, None, options=options)
    options = long_enough(options, data)
    objective = Objective(labels=None, teacher=Teacher(module=trainable(Path(asked["model"]))))
    judge = Judge(objective=objective, data=data, metric="loss", output=answer)
    train(module, objective, data, options, judge=judge, call=call, before_step=observe)
    done = convert_pt2e(module)
    one = (torch.zeros(1, *images.shape[1:]),)
    program = torch.onnx.export(torch.export.export(done, one), dynamo=True, verbose=False)
    assert program is not None
    program.save(asked["out"])
    print(json.dumps({"cpu_seconds": round(time.process_time() - begun, 1)}))


if __name__ == "__main__":
    main()

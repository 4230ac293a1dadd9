"""Every network of the test suite, trainable: forward, gradients, any batch, weights back; BatchNorm kept."""

from __future__ import annotations

from pathlib import Path

import networks
import pytest
import taught_networks
import torch
from trained_forms import agreement, canonical, derivative_error, gradients_missing, same_weights

from edgekit.errors import Unsupported
from edgekit.train import trainable, write_back

# nn.MultiheadAttention works on (steps, batch, features): its export of one sample leaves no trace of where
# the batch was, and a larger one is refused.
ALONE = ("attention", "encoder_block")


def exported(name: str, folder: Path) -> Path:
    """The canonical form of a network, exported with its BatchNorm in place."""
    if name in networks.NETWORKS:
        made = networks.make(name)
        module, example = made.module, tuple(torch.from_numpy(v[:1]) for v in made.samples.values())
    else:
        torch.manual_seed(0)
        module, example = taught_networks.factory(name)
    path = folder / f"{name}.onnx"
    torch.onnx.export(
        module.eval(), example, str(path), dynamo=False, opset_version=17, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    return canonical(path)


@pytest.mark.conformance
@pytest.mark.parametrize("name", [*networks.NETWORKS, *taught_networks.LESSONS])
def test_a_network_of_the_suite_is_trainable(name: str, tmp_path: Path) -> None:
    path = exported(name, tmp_path)
    module = trainable(path)
    assert agreement(module, path, batch=1) < 5e-6
    if name in ALONE:
        assert "gemm" in module.meta["batch"]
        with pytest.raises(Unsupported, match="a batch of 3: this graph takes 1"):
            agreement(module, path, batch=3)
    else:
        assert module.meta["batch"] == ""
        assert agreement(module, path, batch=3) < 1e-5
    assert gradients_missing(module, path) == []
    assert derivative_error(path) < 1e-4
    assert same_weights(path, write_back(module, path, tmp_path / "back.onnx"))
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    source = networks.make(name).module if name in networks.NETWORKS else taught_networks.factory(name)[0]
    kept = [m for m in source.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == len(kept)

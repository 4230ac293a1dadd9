"""An engine package that misbehaves on demand, and an artifact for it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import runtime_models as models

X = {"x": np.ones((2, 3), np.float32)}

# Stands in for the package `openvino`: doubles its input, and does what FAKE_LOAD and FAKE_RUN say.
FAKE_ENGINE = '''
import ctypes, os, signal, sys, time
import numpy as np

def misbehave(when):
    deed = os.environ.get("FAKE_" + when, "")
    print("loud engine on stdout", when); os.write(1, b"and raw on descriptor 1\\n"); sys.stdout.flush()
    if deed == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
    if deed == "sigkill": os.kill(os.getpid(), signal.SIGKILL)
    if deed == "abort": os.abort()
    if deed == "bad_alloc":
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n"); os.abort()
    if deed == "memory": raise MemoryError("no more")
    if deed == "raise": raise RuntimeError("kernel failed\\nin detail")
    if deed == "bug": raise LookupError("a defect")
    if deed == "exit": os.write(2, b"licence expired\\n"); os._exit(3)
    if deed == "hang": time.sleep(600)
    if deed == "hang with the lock": ctypes.PyDLL(None).sleep(600)
    if deed == "fork and hang":
        os.fork(); time.sleep(600)
    if deed == "close stdout":
        for fd in range(3, 64):
            try: os.close(fd)
            except OSError: pass
        time.sleep(600)

class Port:
    def __init__(self, name): self.name = name
    def get_names(self): return {self.name}
    def get_element_type(self): return self
    def to_dtype(self): return np.dtype("float32")

class Tensor:
    def __init__(self): self.data = np.zeros((2, 3), np.float32)

class Request:
    def __init__(self): self.tensors = {"x": Tensor(), "y": Tensor()}
    def get_tensor(self, port): return self.tensors[port.name]
    def infer(self):
        misbehave("RUN")
        self.tensors["y"].data[...] = self.tensors["x"].data * 2

class Compiled:
    inputs, outputs = [Port("x")], [Port("y")]
    def create_infer_request(self): return Request()

class Core:
    def get_property(self, device, name): return ["INFERENCE_NUM_THREADS"]
    def compile_model(self, path, device, properties):
        misbehave("LOAD")
        return Compiled()
'''


def fake_artifact(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """An artifact whose engine is the fake, which the workers of this test find in place of openvino."""
    package = folder / "packages"
    package.mkdir()
    (package / "openvino.py").write_text(FAKE_ENGINE)
    patch.setenv("PYTHONPATH", str(package))
    inputs, outputs = ((models.tensor(n, "float32", (2, 3)),) for n in "xy")
    return models.put_artifact(folder / "artifact", "openvino", b"model", inputs, outputs)


def gone(pid: int) -> bool:
    """Whether the process ended (a zombie that waits to be reaped by init has ended)."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False

"""The demo (`make demo`): train a network on real digits, then let edgekit convert, prove and time it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "build" / "digits"


def main() -> int:
    """Train once (kept under build/digits), run the recipe; the exit code is edgekit's."""
    if not (OUT / "digits.pt").is_file():
        print("training a small network on 4,000 real handwritten digits", flush=True)
        subprocess.run([sys.executable, str(HERE / "train.py"), "--out", str(OUT)], check=True)
    recipe = str((HERE / "recipe.toml").relative_to(ROOT))
    print(f"$ edgekit run {recipe}", flush=True)
    return subprocess.run([sys.executable, "-m", "edgekit", "run", recipe], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

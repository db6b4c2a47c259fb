"""Peers' packages, each in a place of its own that this fills once; the project's environment has none of them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs" / "results"))
from nnunet_environment import PACKAGES, environment  # noqa: E402

#: The newest release, Apache-2.0; without what it needs for its figures.
MLSTM_KERNELS = "mlstm-kernels==2.0.6"
OUTPUT = ROOT / "test" / "output"
NNUNET = " and ".join(PACKAGES)


def nnunet() -> Path:
    """The Python of the environment that `make nnunet` uses."""
    return environment(OUTPUT / "nnunet" / "venv")


def mlstm_kernels() -> None:
    """Make NX-AI's kernels importable here; torch is this environment's."""
    folder = OUTPUT / "bench" / MLSTM_KERNELS / "site-packages"
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), MLSTM_KERNELS], check=True)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

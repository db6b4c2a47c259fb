"""An environment that holds nnU-Net's package, which is no dependency of this project."""

import subprocess
import sys
from pathlib import Path

#: The newest release on the day of the run; torch is the one that this project is locked to.
PACKAGES = ("nnunetv2==2.8.1", "torch==2.13.0")


def environment(folder: Path) -> Path:
    """A virtual environment that holds nnU-Net's package; its Python."""
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "complete").touch()
    return python

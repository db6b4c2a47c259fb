"""A run's folder: settings, log (JSONL and TensorBoard), checkpoints, figures.

    config.yaml   log.jsonl   tensorboard/   checkpoints/{last,best}.safetensors   figures/

`pretrain` and `finetune` both write it, `--resume` reads it.
"""

import json
import logging
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic import BaseModel
from torch.utils.tensorboard import SummaryWriter

from segsync.errors import InputError, OutputError
from segsync_train.checkpoints import why_not
from segsync_train.settings import dump_settings

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
LOG_FILE = "log.jsonl"


class RunFolder:
    """Where a run writes. Only the first process of several is `main` and writes; the others' calls do nothing."""

    def __init__(self, folder: Path, *, main: bool = True) -> None:
        """Name the folder; nothing is made before `create` or `reopen`."""
        self.folder = folder
        self.main = main
        self._log: IO[str] | None = None
        self._board: SummaryWriter | None = None

    @property
    def last(self) -> Path:
        """The newest checkpoint: everything that `--resume` needs."""
        return self.folder / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        """The weights with the best validation score."""
        return self.folder / "checkpoints" / "best.safetensors"

    @property
    def figures(self) -> Path:
        """The folder of pictures."""
        return self.folder / "figures"

    def create(self, settings: BaseModel) -> None:
        """Start anew; raises InputError where the folder already holds a run, OutputError where it cannot be made."""
        if self.main and (self.folder / CONFIG_FILE).exists():
            raise InputError(
                f"{self.folder}: already holds a run; add --resume to go on with it, or choose another folder"
            )
        self._open(settings, step=0)

    def reopen(self, settings: BaseModel, step: int) -> None:
        """Go on after `step`: what was logged after it is forgotten, since it will be done again."""
        if self.main:
            path = self.folder / LOG_FILE
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if _step_of(line) <= step]
            part = path.with_name(f".{LOG_FILE}.part")
            part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            part.replace(path)
        self._open(settings, step)

    def _open(self, settings: BaseModel, step: int) -> None:
        if not self.main:
            return
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
            self.last.parent.mkdir(exist_ok=True)
            (self.folder / CONFIG_FILE).write_text(dump_settings(settings), encoding="utf-8")
            self._log = (self.folder / LOG_FILE).open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        except OSError as error:
            raise OutputError(f"{self.folder}: expected to write the run, found {why_not(Path(), error)}") from error

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to the log, and its numbers to TensorBoard. Raises OutputError where the disk is full."""
        if self._log is None or self._board is None:
            return
        try:
            self._log.write(json.dumps({"step": step, **values}) + "\n")
            self._log.flush()
            for name, value in values.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self._board.add_scalar(name, value, step)
            self._board.flush()
        except OSError as error:
            raise OutputError(
                f"{self.folder / LOG_FILE}: expected to write the log, found {why_not(self.folder, error)}"
            ) from error

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()
        self._log = self._board = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def commit() -> str:
    """The commit of the checkout that this program runs from; `unknown` outside one, `+` where it has changes."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Every line of a run's log."""
    return [json.loads(line) for line in (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()]


def _step_of(line: str) -> float:
    """The step of a line of the log; a line that a kill cut off belongs to none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf

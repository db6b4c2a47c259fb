"""A run's folder: settings, log (JSONL and TensorBoard), checkpoints, figures.

    config.yaml   log.jsonl   tensorboard/   checkpoints/{last,best}.safetensors   figures/

`pretrain` and `finetune` both write it, `--resume` reads it.
"""

import json
import logging
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic import BaseModel
from torch.utils.tensorboard import SummaryWriter

from segsync.atomic import PART, why_not, write_texts
from segsync.errors import InputError, OutputError
from segsync_train.config.settings import Settings, differences, dump_settings, load_settings, short
from segsync_train.runs.checkpoints import Checkpoint, load_checkpoint

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
LOG_FILE = "log.jsonl"
#: Settings, with all that they hold, that may change when a run goes on: how long it takes, how fast and where it is
#: done, how often it is looked at; and `optimiser.lr` and `amp`, which a loss that is no number asks to change. What
#: decides on the data and their split, on what is learned or on the network never does: a case that has trained would
#: validate, and `config.yaml` would tell of another run than the one that made the weights.
MAY_CHANGE = (
    "name", "card", "steps", "validation", "held_out.every", "held_out.patience", "stop_on_collapse", "optimiser.lr",
    "amp", "compile", "device", "workers", "checkpoint_every", "log_every", "data.cache",
)  # fmt: skip


class RunFolder:
    """Where a run writes. Only the first process of several is `main` and writes; the others' calls do nothing."""

    def __init__(self, folder: Path, *, main: bool = True) -> None:
        """Name the folder; nothing is made before `create` or `reopen`."""
        self.folder = folder
        self.main = main
        self._log: IO[str] | None = None
        self._board: SummaryWriter | None = None

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run, to go on with by `--resume`."""
        return (self.folder / CONFIG_FILE).is_file()

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

    def newest(self, checkpoint_every: int) -> Checkpoint | None:
        """The checkpoint to go on from.

        Args:
            checkpoint_every: Steps between checkpoints.

        Returns:
            The last; None where the run was ended before its first, and so begins again.

        Raises:
            WeightsError: It is missing although the run has come past `checkpoint_every` steps, or damaged.
        """
        steps = [step for step in map(_step_of, self._lines()) if math.isfinite(step)]
        if self.begun and not self.last.exists() and max(steps, default=0) <= checkpoint_every:
            log.info("%s: no checkpoint yet, so the run begins again", self.folder)
            return None
        return load_checkpoint(self.last)

    def check_new(self) -> None:
        """Raise InputError where the folder already holds a run."""
        if self.main and self.begun:
            raise InputError(
                f"{self.folder}: already holds a run; add --resume to go on with it, or choose another folder"
            )

    def create(self, settings: BaseModel) -> None:
        """Start anew; raises InputError where the folder already holds a run, OutputError where it cannot be made."""
        self.check_new()
        self._open(settings, step=0)

    def check_unchanged(self, settings: BaseModel) -> None:
        """Raise InputError where the run began with settings that differ in more than may change (`MAY_CHANGE`)."""
        path = self.folder / CONFIG_FILE
        if not path.is_file():
            return
        for key, kept, given in differences(_plain(load_settings(type(settings), path)), _plain(settings)):
            if not may_change(key):
                raise InputError(
                    f"{self.folder}: {key}: expected {short(kept)}, with which the run began, found {short(given)}; "
                    "leave it as it is, or start another run in another folder"
                )

    def reopen(self, settings: BaseModel, step: int) -> None:
        """Go on after `step`: what was logged after it is forgotten, since it will be done again."""
        if self.main:
            kept = [line for line in self._lines() if _step_of(line) <= step]
            self._write(LOG_FILE, "".join(f"{line}\n" for line in kept))
        self._open(settings, step)

    def _lines(self) -> list[str]:
        path = self.folder / LOG_FILE
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _write(self, name: str, text: str) -> None:
        """Write a file of the folder, whole or not at all; raises OutputError."""
        write_texts({name: text}, self.folder)

    def _open(self, settings: BaseModel, step: int) -> None:
        if not self.main:
            return
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
            self.last.parent.mkdir(exist_ok=True)
            for left in self.last.parent.glob(f".*{PART}"):  # of a run that was killed while it wrote
                left.unlink()
            self._write(CONFIG_FILE, dump_settings(settings))
            self._log = (self.folder / LOG_FILE).open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: expected to write the run, found {why_not(self.folder, error)}"
            ) from error

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line to the log, and its numbers to TensorBoard.

        Args:
            step: Of the training.
            values: By name; TensorBoard gets the finite numbers among them.

        Raises:
            OutputError: The disk is full, or the folder was deleted or replaced since the run began.
        """
        if self._log is None or self._board is None:
            return
        self._check_folder(self._log)
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

    def _check_folder(self, log: IO[str]) -> None:
        """A file that is open takes lines when its name is gone, and checkpoints would make a folder without a log."""
        path = self.folder / LOG_FILE
        if not path.is_file() or not os.path.samestat(path.stat(), os.fstat(log.fileno())):
            raise OutputError(
                f"{path}: expected the log of the run under way, found it deleted or replaced since; what was learned "
                "after the last checkpoint is lost: begin the run again"
            )

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


def settings_of(
    model: type[Settings], output: Path, config: Path | None, overrides: Sequence[str], *, resume: bool
) -> Settings:
    """The settings of a run: of the file that was given, or when it goes on those that the run began with.

    Args:
        model: What the settings are checked by.
        output: Folder of the run.
        config: The file; None where the run goes on.
        overrides: `a.b=value`, the value in YAML.
        resume: Whether the run goes on.

    Returns:
        The settings.

    Raises:
        InputError: There are no settings, or the file's are not those of the run that goes on.
    """
    if not resume:
        if config is None:
            raise InputError("no settings of the run; give --config FILE")
        return load_settings(model, config, overrides)
    if not RunFolder(output).begun:
        raise InputError(f"{output}: no run to go on with; leave out --resume")
    settings = load_settings(model, output / CONFIG_FILE, overrides)
    if config is not None:
        for key, kept, given in differences(_plain(settings), _plain(load_settings(model, config, overrides))):
            other = f"give --set {key}={json.dumps(given)}" if may_change(key) else "start another run for it"
            raise InputError(
                f"{config}: {key}: expected {short(kept)}, with which the run in {output} began, found {short(given)}; "
                f"leave --config out, or {other}"
            )
    return settings


def _plain(settings: BaseModel) -> Any:
    return settings.model_dump(mode="json")


def may_change(key: str) -> bool:
    """Whether a setting may be another one when a run goes on."""
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE)


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

"""Checkpoints without pickle: one safetensors file, whole or absent, from which a killed run goes on exactly.

Tensors are named `network/…`, `ema/…` and `optimiser/<parameter>/…`, a pretraining's `encoder/…`, `pretext/…` and
`monitor/…`; everything that is no tensor (step, best score, the run's settings) is JSON in the file's header.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segsync.atomic import whole_file, why_not
from segsync.errors import OutputError, WeightsError

FORMAT = "segsync-train 1"
#: First bytes of what torch.save writes: a zip archive, or of old a pickle.
PICKLED = (b"PK", b"\x80")
BRING = "bring others' weights in once with segsync-train import FILE -o DIR"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: `tensors` by their full names, `state` as it was given to `save_checkpoint`."""

    path: Path
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below `name/`, without that prefix."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{name}/")}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as `prefix/name`, which `Checkpoint.part` takes off again."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint: a kill or a power cut at any moment leaves the old file or the new one.

    Args:
        path: The file.
        tensors: By their full names.
        state: All that is no tensor, as JSON has it.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    # Copies: safetensors refuses tensors that share memory, as those do that a network holds under two names.
    flat = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    try:
        with whole_file(path, durable=True) as part:
            save_file(flat, part, metadata={"format": FORMAT, "state": json.dumps(state)})
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: expected to write the checkpoint, found {why_not(path.parent, error)}") from error


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2)
    except OSError:
        return b""


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU. Raises WeightsError where it is missing, cut, or of another program."""
    if not path.is_file():
        raise WeightsError(f"{path}: expected a checkpoint, found no such file; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise WeightsError(
                    f"{path}: expected a checkpoint of {FORMAT!r}, found {header.get('format', 'another kind')!r}; "
                    f"give one that segsync-train wrote, or {BRING}"
                )
            return Checkpoint(path, {key: file.get_tensor(key) for key in file.keys()}, json.loads(header["state"]))  # noqa: SIM118 (safe_open is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        if _begins(path).startswith(PICKLED):
            raise WeightsError(
                f"{path}: expected a checkpoint of {FORMAT!r}, found a file of torch.save; {BRING}"
            ) from error
        raise WeightsError(
            f"{path}: expected a whole checkpoint, found {path.stat().st_size} bytes that cannot be decoded ({error}); "
            "take an older one"
        ) from error


def load_network(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Give a network its weights; raises WeightsError that says the first difference where they are of another one."""
    own = network.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        expected = tuple(own[name].shape) if name in own else "no such tensor"
        found = tuple(weights[name].shape) if name in weights else "no such tensor"
        if expected != found:
            raise WeightsError(
                f"{path}: the checkpoint is of another network: {name}: expected {expected}, found {found}; "
                "use the settings that it was trained with"
            )
    network.load_state_dict(dict(weights))


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments as `optimiser/<number of the parameter>/<name>`."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser/{index}/{key}": value for index, values in state.items() for key, value in values.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser its moments back; its groups keep the settings they were built with."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)

"""Where and how precisely a run computes: device, mixed precision, and the processes that torchrun started."""

import contextlib
import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Its functions keep the group that they find when first imported, which DistributedDataParallel does: none, here.
import torch.distributed.nn.functional
from torch import Tensor

from segsync.arrays import SizeZYX
from segsync.errors import InputError, ResourceError, memory_errors
from segsync.memory import peak_bytes, reset_peak
from segsync.processor import say_threads, threads
from segsync_train.config.training import Amp

#: How many times its number of slices a patch may be wide where a CPU computes gradients in 16 bits.
FLATTEST = 4


@dataclass(frozen=True)
class Processes:
    """The processes of one run, each with its own part of every batch."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.count
        return value

    def gather(self, values: list[Any]) -> list[Any]:
        """Every process's values, one after another, in every process."""
        if self.count == 1:
            return values
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """The block is run by the first process, then by the others: what it made, they find."""
        if self.count > 1 and not self.main:
            dist.barrier()
        try:
            yield
        finally:
            if self.count > 1 and self.main:
                dist.barrier()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.mean(torch.tensor(float(flag), device=device)) > 0) if self.count > 1 else flag


@contextlib.contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, joined for the length of the block; one alone without torchrun.

    What the block makes of them (a wrapped network) has to be out of reach at its end: make it in a function.
    """
    if not dist.is_torchelastic_launched():
        yield Processes()
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    world = dist.group.WORLD
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), dist.get_node_local_rank())
    finally:
        # gloo's threads end with the last reference to the group, and may need the interpreter's lock until then, to
        # give back a tensor. This reference waits for them without it. DistributedDataParallel's would wait for ever,
        # and threads that are left when the interpreter ends abort the process.
        gc.collect()
        dist.destroy_process_group()
        del world


def training_device(name: str, group: Processes) -> torch.device:
    """Choose the device of a process.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.
        group: The run's processes; of several each takes the GPU of its number.

    Returns:
        The device, which torch then computes on.

    Raises:
        ResourceError: It does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ResourceError(f"device: expected auto, cpu, cuda or cuda:N, found {name!r}") from error
    if device.type == "cuda":
        index = group.local_rank if group.count > 1 else device.index or 0
        if index >= torch.cuda.device_count():
            raise ResourceError(
                f"device: expected GPU {index}, found {torch.cuda.device_count()} GPUs; choose cpu or auto"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads())
        say_threads()
    return device


def hardware(device: torch.device) -> str:
    """What computes, in words, for the record of a run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''} of an {platform.machine()} CPU"


@contextlib.contextmanager
def memory_of_training(under_way: Callable[[], str]) -> Iterator[None]:
    """Say what a training did when memory ended, on a GPU, on the CPU or in a process that prepares patches.

    Args:
        under_way: Gives device, step and sizes for the message.

    Raises:
        ResourceError: In place of MemoryError and of what torch raises instead.
    """
    try:
        with memory_errors():
            yield
    except MemoryError as error:
        raise ResourceError(
            f"{under_way()}: expected more memory, found too little ({str(error)[:200]}); set a smaller batch or "
            "patch_zyx, or fewer workers"
        ) from error


def reset_peak_memory(device: torch.device) -> None:
    """Begin `peak_memory_mib` anew where the system can: an earlier run of this process does not count for the next."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    reset_peak()


def peak_memory_mib(device: torch.device) -> float:
    """The most memory that this process has held since the last reset: on a GPU its tensors', on the CPU all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_bytes() / 2**20


def amp_dtype(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None for float32 throughout (which is faster on CPUs without bfloat16 units)."""
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return None
    if amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if amp == "bf16" else torch.float16


def training_amp_dtype(amp: Amp, device: torch.device, patch_zyx: SizeZYX) -> torch.dtype | None:
    """`amp_dtype` of training.

    On a CPU with AMX, torch 2.13's (oneDNN 3.12) weight gradients in 16 bits write outside their memory where a map has
    at most 8 slices of 64 × 64 voxels and more: the process ends, or the gradient is wrong without a word. Strides
    halve the sides alike, so that the patch's own shape tells.

    Raises:
        InputError: Such a patch on a CPU.
    """
    dtype = amp_dtype(amp, device)
    slices, height, width = patch_zyx
    if dtype is not None and device.type == "cpu" and height * width > (FLATTEST * slices) ** 2:
        raise InputError(
            f"amp: expected auto or off for patches of {slices} slices of {height} × {width} voxels on a CPU, found "
            f"{amp}; there, the gradients of such flat patches in 16 bits are wrong"
        )
    return dtype


def autocast(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """The context in which the network runs."""
    return torch.autocast(device.type, dtype) if dtype is not None else contextlib.nullcontext()

"""How much memory a network's windows take, and the largest window that keeps the process below its limit."""

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from segsync.arrays import SizeZYX
from segsync.control_groups import files_of
from segsync.errors import ResourceError
from segsync.sliding_window import fitted, halved, voxels_of

STATUS = Path("/proc/self/status")
#: Where Linux is told (by a 5) to forget a process's largest resident memory; see proc(5).
CLEAR_REFS = Path("/proc/self/clear_refs")
#: Control groups without a limit say `max`, or a number near the largest that there is.
NO_LIMIT = 2**60


def peak_bytes() -> int:
    """The most memory this process has held so far, or since `reset_peak`, in bytes."""
    if STATUS.is_file():
        # Unlike getrusage's figure, this one does not begin with what the process held that started this one.
        return _status("VmHWM")
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts it in bytes


def resident_bytes() -> int:
    """The memory that this process holds now, in bytes; where the system does not say, the most that it has held."""
    return _status("VmRSS") if STATUS.is_file() else peak_bytes()


def reset_peak() -> None:
    """Let `peak_bytes` begin anew, where the system can."""
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")


def _status(key: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(key)) * 1024


def container_limit() -> int | None:
    """The memory that the container, or the job of a cluster, allows its processes, in bytes; None: no limit.

    Above it the kernel ends the process, without a line.
    """
    limits = []
    for path in files_of("memory", "memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, not readable, or `max`
            limits.append(int(path.read_text()))
    return min((limit for limit in limits if limit < NO_LIMIT), default=None)


@dataclass(frozen=True)
class Footprint:
    """What a loaded network takes: `base` bytes, and `per_voxel` more for each voxel of a window."""

    base: int
    per_voxel: float

    @classmethod
    def measure(cls, run: Callable[[SizeZYX], None], probe_zyx: SizeZYX) -> "Footprint":
        """Run one probe window and see what the process grows by; call it before any image is read."""
        before = peak_bytes()
        run(probe_zyx)
        return cls(before, max(0, peak_bytes() - before) / math.prod(probe_zyx))

    def largest(self, patch_zyx: SizeZYX, multiple_zyx: SizeZYX, arrays: int, limit: int) -> SizeZYX:
        """The patch, halved until network, `arrays` bytes beside it and one window stay below `limit` bytes.

        It is never smaller than one multiple an axis, whatever the limit.
        """
        patch = patch_zyx
        while self.base + arrays + self.per_voxel * math.prod(patch) > limit:
            z, y, x = (max(m, p // 2 // m * m) for p, m in zip(patch, multiple_zyx, strict=True))
            if (z, y, x) == patch:
                break
            patch = (z, y, x)
        return patch


@dataclass(frozen=True)
class Budget:
    """A limit of memory, and what of it a network's windows may take.

    Attributes:
        limit: Bytes that the process should stay below.
        source: Where the limit comes from, for messages.
        footprint: What the loaded network takes; `base` is what the process held when it was measured.
        probe_zyx: The window it was measured with, whose memory the engine keeps.
        patch_zyx: The windows of the network's training.
        multiple_zyx: Multiples that a window's sides must be of.
    """

    limit: int
    source: str
    footprint: Footprint
    probe_zyx: SizeZYX
    patch_zyx: SizeZYX
    multiple_zyx: SizeZYX

    @classmethod
    def measure(
        cls, run: Callable[[SizeZYX], None], patch_zyx: SizeZYX, multiple_zyx: SizeZYX, limit: int | None, *, gpu: bool
    ) -> "Budget | None":
        """Run one window of half the size, and see what it takes.

        Args:
            run: Runs the network on an empty window of a size.
            patch_zyx: As the attribute.
            multiple_zyx: As the attribute.
            limit: What the user asks for; None: the container's own limit, if it has one.
            gpu: Whether windows take a GPU's memory, of which a container's limit says nothing.

        Returns:
            The budget, or None where there is no limit.
        """
        own = None if gpu else container_limit()
        if limit is None and own is None:
            return None
        source = "--max-memory" if own is None or (limit is not None and limit <= own) else "the container's own limit"
        probe = halved(patch_zyx, multiple_zyx)
        footprint = Footprint.measure(run, probe)
        allowed = min(value for value in (limit, own) if value is not None)
        return cls(allowed, source, footprint, probe, patch_zyx, multiple_zyx)

    def largest_window(self, arrays: int, shape: SizeZYX) -> SizeZYX:
        """The largest window that stays below the limit, beside the images that have been read by now.

        Args:
            arrays: Bytes of further arrays that will be in memory with it.
            shape: Voxels of the volume on the model's grid.

        Returns:
            The patch of the training, or half of it.

        Raises:
            ResourceError: Not even half of it fits; says how much memory would do.
        """
        patch = fitted(self.patch_zyx, self.multiple_zyx, shape)
        held = resident_bytes() - self.footprint.per_voxel * math.prod(self.probe_zyx)
        now = replace(self.footprint, base=max(0, int(held)))
        chosen, smallest = now.largest(patch, self.multiple_zyx, arrays, self.limit), halved(patch, self.multiple_zyx)
        needed = now.base + arrays + now.per_voxel * math.prod(smallest)
        if needed > self.limit or any(side < least for side, least in zip(chosen, smallest, strict=True)):
            raise ResourceError(
                f"expected memory for windows of {voxels_of(smallest)} voxels, half of those in training, found "
                f"{in_gb(self.limit)} ({self.source}) where about {in_gb(needed)} are needed; give more memory"
            )
        return chosen

    def exceeded(self) -> str | None:
        """That the process has held more than the limit since `reset_peak`, for the report; None where it has not."""
        peak = peak_bytes()
        if peak <= self.limit:
            return None
        return f"memory: {in_gb(peak)} were held at the peak, above the limit of {in_gb(self.limit)} ({self.source})"


def in_gb(size: float) -> str:
    """Bytes for people, as `--max-memory` counts them."""
    return f"{size / 2**30:.2f} GB"

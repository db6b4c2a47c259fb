"""How much memory a network's windows take, and the largest window that stays below a limit."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segsync.arrays import SizeZYX

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The most memory this process has held so far, in bytes."""
    if STATUS.is_file():
        # Unlike getrusage's figure, this one does not begin with what the process held that started this one.
        return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts it in bytes


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

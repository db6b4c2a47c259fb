"""How much processor this process really gets, and how many threads its libraries start for that.

Threads that wait for each other lose far more to a busy neighbour than its share: each barrier waits for the thread
that was put aside. So there is one thread for each processor that is allowed and free.
"""

import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from segsync.control_groups import files_of

log = logging.getLogger(__name__)

#: Threads of each library at most: the platform allows a container 128 processes and threads, on any machine.
MAX_THREADS = 16
#: Where Linux counts what every processor did, in hundredths of a second.
STAT = Path("/proc/stat")
#: Seconds over which other processes are watched at least.
WATCHED = 0.1
#: Of a line of STAT: user, nice, system, irq, softirq, steal; not idle and iowait.
BUSY_FIELDS = (1, 2, 3, 6, 7, 8)


def allowed() -> int:
    """The processors that affinity and a container's quota leave to this process, MAX_THREADS at most."""
    counts = [len(_processors()), MAX_THREADS]
    for path in files_of("cpu", "cpu.max", "cpu.cfs_quota_us"):
        with suppress(OSError, ValueError):  # not there, not readable, or `max`
            words = path.read_text().split()
            period = int(words[1] if len(words) > 1 else path.with_name("cpu.cfs_period_us").read_text())
            if int(words[0]) > 0:  # -1: no quota
                counts.append(math.ceil(int(words[0]) / period))
    return min(counts)


def _processors() -> set[int]:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class Sample:
    """A moment: the clock, this process's processor time, and all processors' together, in seconds."""

    clock: float
    own: float
    all: float

    @classmethod
    def now(cls) -> "Sample":
        """What the system says; `all` is NaN where it does not say."""
        busy = math.nan
        with suppress(OSError, ValueError, IndexError):
            names = {f"cpu{number}" for number in _processors()}
            lines = [line.split() for line in STAT.read_text().splitlines() if line.split(maxsplit=1)[0] in names]
            busy = sum(int(line[field]) for line in lines for field in BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), time.process_time(), busy)

    def taken(self, until: "Sample") -> float:
        """How many processors others kept busy between two samples."""
        seconds = until.clock - self.clock
        others = (until.all - self.all - (until.own - self.own)) / max(seconds, 1e-9)
        if not math.isnan(others):
            return max(0.0, others)
        # macOS tells the mean of the last minute; Windows tells nothing.
        return max(0.0, os.getloadavg()[0] - (until.own - self.own) / max(seconds, 1e-9)) if _tells_load() else 0.0


def _tells_load() -> bool:
    return hasattr(os, "getloadavg")


def fitting(processors: int, allowed_: int, taken: float) -> int:
    """Threads for the processors that are neither forbidden nor taken: at least one."""
    return max(1, min(allowed_, round(processors - taken)))


class _Choice:
    """The number of threads of this process: its libraries' pools are the process's as well."""

    def __init__(self) -> None:
        self.began = Sample.now()
        self.threads: int | None = None
        self.reason = ""
        self.said = False


_choice = _Choice()


def choose_threads(count: int | None) -> int | None:
    """Take as many threads as `--threads` says; None leaves the choice to `threads`. Returns what it was given."""
    if count is not None:
        _choice.threads, _choice.reason = count, "--threads"
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    return count


def threads() -> int:
    """Threads for a library: as `choose_threads` was told, else what OMP_NUM_THREADS says, else what is free.

    The choice is made once in a process: results of one run are all rounded alike.
    """
    if _choice.threads is None:
        asked = os.environ.get("OMP_NUM_THREADS", "")
        if asked.isdigit() and int(asked) > 0:
            _choice.threads, _choice.reason = min(int(asked), allowed()), "OMP_NUM_THREADS"
        else:
            _choice.threads, _choice.reason = _free()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(_choice.threads)
    return _choice.threads


def _free() -> tuple[int, str]:
    most = allowed()
    if most == 1:
        return 1, ""
    time.sleep(max(0.0, WATCHED - (time.monotonic() - _choice.began.clock)))
    taken = _choice.began.taken(Sample.now())
    count = fitting(len(_processors()), most, taken)
    return count, f"other processes keep {taken:.1f} of them busy" if count < most else ""


def shared() -> bool:
    """Whether others take some of the processors, so that threads should not spin while they wait."""
    return threads() < min(len(_processors()), MAX_THREADS)


def say_threads() -> None:
    """Tell once how many threads were chosen where that is not one for each processor."""
    count, most = threads(), len(_processors())
    if _choice.said or count == most:
        return
    _choice.said = True
    reason = _choice.reason or "affinity, a quota or the limit of threads allow no more"
    log.info("%d of %d processors are used (%s); --threads changes it", count, most, reason)

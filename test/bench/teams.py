"""What a challenge team waits for: an ensemble of five against five single networks, and planning 250 cases.

Run as a script it is one of the workers, in a process that holds nothing else: `teams.py times|peak|plan FOLDER`. Times
are of the processor, one thread: by the clock, a case five times as long meets other neighbours than a short one.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bundles import of_shipped
from heads import heads
from pipeline import Figures, channels, peak_mib
from sections import Section

ROUNDS, NETWORKS, CASES = 3, 5, 250
#: A head at 2 mm, as wide as ATLAS's.
SIZE_ZYX, SPACING_MM = (95, 116, 98), 2.0


def measure() -> Iterator[Section]:
    """Times of both in turn in one process; memory in a process each, where more of one would hide the other's."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        together, alone = of_shipped(folder / "ensemble", networks=NETWORKS), of_shipped(folder / "single")
        times = _run("times", folder)
        peaks = [_run("peak", weights)["peak"] for weights in (together, alone)]
        yield Section(
            "An ensemble of five, on a CPU",
            ("", "five networks averaged", "one network", "ensemble / (5 × one) in time, / one in memory"),
            (
                ("one case", f"{times['ensemble']:.2f} s", f"{times['single']:.2f} s", f"{times['ratio']:.2f}"),
                ("peak memory", *(f"{peak:.0f} MiB" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}"),
            ),
            f"Processor time of one thread, medians of {ROUNDS} rounds in turn in one process, the ratio that of each "
            "round. The bundled case with the isles22 network, five times the same, without mirroring; the mask is the "
            "same.",
        )
        planned = _run("plan", heads(folder / "cases", CASES, SIZE_ZYX, SPACING_MM, lesions=True))
        yield Section(
            "Planning, on a CPU",
            ("", ""),
            (
                ("`plan` for 250 cases of 2 mm, processor time", f"{planned['processor']:.0f} s"),
                ("the same by the clock", f"{planned['seconds']:.0f} s"),
                ("peak memory", f"{planned['peak']:.0f} MiB"),
            ),
            f"{' × '.join(map(str, SIZE_ZYX))} voxels, one channel, gzipped; two cases read at once.",
        )


def _run(name: str, folder: Path) -> Figures:
    command = [sys.executable, __file__, name, str(folder)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def times(folder: Path) -> Figures:
    """The bundled case by the ensemble and by one network in turn, networks ready."""
    names = ("ensemble", "single")
    cases = {name: _case(folder / name) for name in names}
    rounds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS + 1):
        for name, case in cases.items():
            began = time.process_time()
            case()
            if number > 0:  # the first one takes memory, for those that follow too
                rounds[name].append(time.process_time() - began)
    ratios = [one / (NETWORKS * other) for one, other in zip(*rounds.values(), strict=True)]
    return {name: statistics.median(found) for name, found in rounds.items()} | {"ratio": statistics.median(ratios)}


def peak(folder: Path) -> Figures:
    """The memory of a process that segments two cases."""
    case = _case(folder)
    case()
    case()
    return {"peak": peak_mib()}


def _case(weights: Path) -> Callable[[], object]:
    """What segments the bundled case by these weights."""
    import segsync
    from segsync.predict import Settings

    model = segsync.load("isles22", weights=weights, device="cpu")
    return lambda: model.predict(channels(), Settings(tta="none"))


def plan(folder: Path) -> Figures:
    """Settings and page of a folder; processor time of the processes that read as well."""
    from segsync_train.planning.plan import plan as make

    began = time.monotonic()
    make(folder, folder / "settings.yaml", device="cpu", memory="8GB")
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(one.ru_utime + one.ru_stime for one in spent)
    return {"seconds": time.monotonic() - began, "processor": processor, "peak": peak_mib()}


WORKERS = {"times": times, "peak": peak, "plan": plan}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(WORKERS[sys.argv[1]](Path(sys.argv[2]))) + "\n")

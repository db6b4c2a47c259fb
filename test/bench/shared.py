"""Threads beside a busy neighbour: as they are chosen, and as many as the machine has processors.

Run as a script it is one measurement, in a process that holds nothing else: `shared.py THREADS`, 0 for what is chosen.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
from pipeline import Figures
from sections import Section, amount

ROUNDS = 3
FORMS = {"as chosen": "0", "all processors": str(max(2, os.cpu_count() or 1))}


def measure() -> Iterator[Section]:
    """Rounds in turn, medians."""
    found: dict[tuple[bool, str], list[Figures]] = {(busy, name): [] for busy in (False, True) for name in FORMS}
    for _ in range(ROUNDS):
        for busy in (False, True):
            beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                for name, threads in FORMS.items():
                    output = subprocess.run([sys.executable, __file__, threads], capture_output=True, check=True).stdout
                    found[busy, name].append(json.loads(output.splitlines()[-1]))
            finally:
                for process in beside:
                    process.kill()
                    process.wait()
    middle = {
        it: {key: statistics.median(one[key] for one in figures) for key in figures[0]} for it, figures in found.items()
    }
    rows = []
    for (busy, name), it in middle.items():
        other = middle[busy, "all processors"]
        each = [cell for key in ("window", "step") for cell in (amount(it[key], "s"), f"{other[key] / it[key]:.2f}")]
        rows.append((f"{name} ({it['threads']:.0f})", "one busy" if busy else "none", *each))
    columns = (
        "threads", "neighbour", "a window of 64³", "all processors / this", "a training step of 32³",
        "all processors / this",
    )  # fmt: skip
    allowed = len(os.sched_getaffinity(0))
    note = f"By the clock, on {allowed} processors; a window of isles22 in ONNX Runtime, a step of `tiny` in torch."
    yield Section("Beside a busy neighbour", columns, tuple(rows), note)


def worker(count: str) -> Figures:
    """A window in ONNX Runtime and a training step in torch."""
    import torch
    from bundles import one_network
    from networks import Step, built

    from segsync.bundle import load_bundle
    from segsync.engine import open_engine
    from segsync.processor import choose_threads, threads

    choose_threads(int(count) or None)
    torch.set_num_threads(threads())
    with one_network() as weights:
        engine = open_engine(load_bundle(weights), "cpu")
    step = Step(built("tiny", (32,) * 3), (32,) * 3)
    seconds: dict[str, list[float]] = {"window": [], "step": []}
    for _ in range(ROUNDS):
        began = time.monotonic()
        engine(np.zeros((1, 3, 64, 64, 64), np.float32))
        between = time.monotonic()
        step()
        seconds["window"].append(between - began)
        seconds["step"].append(time.monotonic() - between)
    return {"threads": threads(), **{name: statistics.median(found) for name, found in seconds.items()}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(worker(sys.argv[1])) + "\n")

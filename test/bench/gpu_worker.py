"""What the steps of `make gpu` share: rows as lines of JSON, medians of rounds in turn, and a GPU's memory."""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Row = dict[str, Any]


def serve(steps: Mapping[str, Callable[[bool], Iterator[Row]]]) -> None:
    """Run the step that the command line names, and write each of its rows as soon as it is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=steps)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    for row in steps[arguments.step](arguments.dry):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def milliseconds(forms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each form's rounds, in turn; the first two warm up (kernels are chosen, graphs compiled)."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(rounds + 2):
        for name, form in forms.items():
            began = time.perf_counter()
            form()
            if round_ >= 2:
                found[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(times) for name, times in found.items()}


@contextmanager
def gpu_memory(dry: bool) -> Iterator[Callable[[], dict[str, float]]]:
    """How many MiB each GPU held more at most, by its number, while the block ran; nothing without one."""
    before, peak, stop = ({}, {}, threading.Event()) if dry else (used_mib(), used_mib(), threading.Event())

    def watch() -> None:
        while not stop.wait(0.1):
            for card, mib in used_mib().items():
                peak[card] = max(peak[card], mib)

    watcher = threading.Thread(target=watch, daemon=True)
    if not dry:
        watcher.start()
    try:
        yield lambda: {card: peak[card] - before[card] for card in peak}
    finally:
        stop.set()
        if not dry:
            watcher.join()


def used_mib() -> dict[str, float]:
    """Memory in use on each GPU."""
    query = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return {card.strip(): float(mib) for card, _, mib in (line.partition(",") for line in lines)}

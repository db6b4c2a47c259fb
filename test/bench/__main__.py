"""`make bench`: ratios of time and memory against a peer measured in the same run. Nothing here can pass or fail."""

import argparse
import logging
import platform
import subprocess
from pathlib import Path

import engines
import full_size
import growth
import mlstm
import networks
import nnunet_predictor
import pipeline
import teams
import train_growth
from rich.console import Console

from segsync_train.runs.folder import commit

PARTS = {
    "pipeline": pipeline.measure, "engines": engines.measure, "teams": teams.measure,
    "mlstm": mlstm.measure, "networks": networks.measure, "full-size": full_size.measure,
    "growth": growth.measure, "nnunet": nnunet_predictor.measure, "training": train_growth.measure,
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
INTRODUCTION = """# Performance

Written by `make bench` at commit {commit} on {processor}. Times are medians over alternating rounds; only the ratios
carry over to another machine.
"""
NOT_SHOWN = """## Not yet shown

- No GPU was at hand: `make gpu` measures speed in float16 and on the CUDA provider, against torch, and writes
  `performance-gpu.md`. Its dry run passes: on a CPU the network in float16 gives the bundled case's mask.
- Networks of the published size in bfloat16.
- nnU-Net's trainer, and a window by OpenVINO, in the same run.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="measure this alone, and write no page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    console = Console(width=110)
    console.print(f"commit {commit()}, {_processor()}")
    sections = []
    for name in [arguments.only] if arguments.only else PARTS:
        for section in PARTS[name]():
            sections.append(section)
            console.print(section.table())
    if not arguments.only:
        head = INTRODUCTION.format(commit=commit(), processor=_processor())
        PAGE.write_text("\n".join([head, *(section.markdown() for section in sections), NOT_SHOWN]), encoding="utf-8")


def _processor() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{found.get('Model name', platform.machine())}, {found.get('CPU(s)', '?')} CPUs"


if __name__ == "__main__":
    main()

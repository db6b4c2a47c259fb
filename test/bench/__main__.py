"""`make bench`: ratios of time and memory against a peer measured in the same run. Nothing here can pass or fail."""

import argparse
import logging
import platform
import subprocess
import sys
import time
from pathlib import Path

import engines
import environments
import full_size
import growth
import mlstm
import networks
import nnunet_predictor
import pipeline
import shared
import start
import teams
import torch
import train_growth
from rich.console import Console
from sections import slower

from segsync.atomic import whole_file
from segsync_train.runs.folder import commit

log = logging.getLogger(__name__)

#: In the order of the page: a case, the folder, the machine, training, networks.
PARTS = {
    "pipeline": pipeline.measure, "start": start.measure, "nnunet": nnunet_predictor.measure,
    "engines": engines.measure, "ct": growth.large, "growth": growth.folders, "teams": teams.measure,
    "shared": shared.measure, "networks": networks.measure, "training": train_growth.measure,
    "full-size": full_size.measure, "mlstm": mlstm.measure,
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
INTRODUCTION = """# Performance

Written whole by one run of `make bench` at commit {commit} on {processor}, with torch {torch}, in
{minutes:.0f} minutes. Only ratios carry over to another machine. Those beside a peer are the peer's figure divided by
segsync's: above 1, segsync is faster or smaller.
"""
NOT_SHOWN = """## Not shown

- A GPU: `make gpu` measures it and writes `performance-gpu.md`; none was at hand.
- The sizes of container images: what is installed in them is above.
- MONAI's sliding window on a cube of 512³ voxels, which takes a minute; the CT above is nearly as large.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="measure this alone, and write no page")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    console = Console(width=140)
    console.print(f"commit {commit()}, {_processor()}")
    if not arguments.only:  # what must be fetched, before half an hour is spent
        environments.nnunet()
        environments.mlstm_kernels()
    sections, broken, began = [], [], time.monotonic()
    for name in [arguments.only] if arguments.only else PARTS:
        part = time.monotonic()
        try:
            for section in PARTS[name]():
                sections.append(section)
                console.print(section.table())
        except Exception as error:  # the rest took half an hour
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
            log.exception("%s\n%s", name, said or "")
            broken.append(f"- {name}, which broke: {type(error).__name__}.\n")
        console.print(f"{name}: {time.monotonic() - part:.0f} s")
    if not arguments.only:
        head = INTRODUCTION.format(
            commit=commit(), processor=_processor(), torch=torch.__version__, minutes=(time.monotonic() - began) / 60
        )
        text = [head, *(section.markdown() for section in (slower(sections), *sections)), NOT_SHOWN + "".join(broken)]
        with whole_file(PAGE) as file:
            file.write_text("\n".join(text), encoding="utf-8")
    sys.exit(bool(broken))


def _processor() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{found.get('Model name', platform.machine())}, {found.get('CPU(s)', '?')} CPUs"


if __name__ == "__main__":
    main()

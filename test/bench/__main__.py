"""`make bench`: ratios of time and memory against a peer measured in the same run. Nothing here can pass or fail."""

import argparse
import json
import logging
import platform
import subprocess
import sys

import mlstm
import pipeline
from rich.console import Console
from rich.table import Table

from segsync_train.runs import commit

PARTS = {"pipeline": pipeline.measure, "mlstm": mlstm.measure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="measure this alone")
    parser.add_argument("--worker", choices=pipeline.WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.worker:
        sys.stdout.write(json.dumps(pipeline.WORKERS[arguments.worker]()) + "\n")
        return
    console = Console(width=110)
    console.print(f"commit {commit()}, {_processor()}")
    for name in [arguments.only] if arguments.only else PARTS:
        for title, columns, rows in PARTS[name]():
            table = Table(*columns, title=title, title_justify="left")
            for row in rows:
                table.add_row(*row)
            console.print(table)


def _processor() -> str:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{found.get('Model name', platform.machine())}, {found.get('CPU(s)', '?')} CPUs"


if __name__ == "__main__":
    main()

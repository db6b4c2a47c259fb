"""`make gpu`: everything that is to be known of a machine with an NVIDIA GPU, in ten minutes, as a page and a JSON.

The runtime is measured in an environment of its own, `.venv-gpu`, as people install it; torch in that of training. Each
step is a process: what one of them breaks or has no time for is said on the page, and the others go on. The exit code
is 1 where a step failed.
"""

import argparse
import itertools
import json
import logging
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from sections import Section

from segsync_train.runs.folder import commit

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "performance-gpu.md"
RUNTIME_ENVIRONMENT = ROOT / ".venv-gpu"
#: Seconds for all steps together; making the environment comes before.
BUDGET = 600.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A part of the measurement: its name, the script that does it, and whether that needs torch."""

    name: str
    script: str
    torch: bool


#: What has to be right first, then what has to be fast.
STEPS = (
    Step("provider", "gpu_runtime.py", torch=False),
    Step("devices", "gpu_runtime.py", torch=False),
    Step("windows", "gpu_torch.py", torch=True),
    Step("training", "gpu_torch.py", torch=True),
    Step("mlstm", "gpu_torch.py", torch=True),
)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="all of it on the CPU, smaller: shows that it runs")
    parser.add_argument("--output", type=Path, help="the page's file; the JSON lies beside it")
    parser.add_argument("--only", choices=[step.name for step in STEPS], action="append", help="these steps alone")
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    page = arguments.output or (Path(tempfile.mkdtemp()) / PAGE.name if arguments.dry else PAGE)
    card = "no GPU: a dry run on the CPU" if arguments.dry else driver()
    pythons = {True: sys.executable, False: sys.executable if arguments.dry else runtime_python()}
    steps = [step for step in STEPS if not arguments.only or step.name in arguments.only]
    rows: list[Row] = []
    left_out: list[str] = []
    failed = False
    end = time.monotonic() + (math.inf if arguments.dry else BUDGET)
    for step in steps:
        command = [pythons[step.torch], str(HERE / step.script), step.name, *(["--dry"] if arguments.dry else [])]
        for row in measured(step.name, command, end - time.monotonic()):
            if "left out" in row:
                left_out.append(f"{step.name}: {row['left out']}")
                failed |= row.get("failed", False)
                log.warning("left out: %s", left_out[-1])
            else:
                rows.append(row)
    tables = list(sections(rows))
    for section in tables:
        Console(width=140).print(section.table())
    write(page, card, rows, tables, left_out)
    log.info("wrote %s", page)
    if failed:
        sys.exit(1)


def driver() -> str:
    """The cards and their driver, in words; the command ends here where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return "; ".join(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines())
    except (OSError, subprocess.CalledProcessError) as error:
        log.error("nvidia-smi shows no NVIDIA GPU (%s); --dry needs no GPU", error)
        sys.exit(6)


def runtime_python() -> str:
    """The interpreter of an environment with the runtime for GPUs, made where it is not there yet."""
    python = RUNTIME_ENVIRONMENT / "bin" / "python"
    ready = RUNTIME_ENVIRONMENT / ".ready"
    if not ready.is_file():
        log.info("making %s", RUNTIME_ENVIRONMENT)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(RUNTIME_ENVIRONMENT)],
            [*pip, "--requirement", str(ROOT / "requirements" / "runtime-gpu.lock")],
            [*pip, "--no-deps", "--editable", str(ROOT)],
            [*pip, "onnx>=1.20"],  # to write the network in float16
        ):
            subprocess.run(command, check=True)
        ready.touch()
    return str(python)


def measured(name: str, command: list[str], seconds: float) -> Iterator[Row]:
    """What a step wrote, a JSON object a line, and last what it did not come to."""
    if seconds <= 0:
        yield {"left out": "no time was left"}
        return
    log.info("%s …", name)
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=None if math.isinf(seconds) else seconds,
                check=False,
            )
            said = " / ".join(done.stderr.strip().splitlines()[-2:])
            last: Row | None = {"left out": said, "failed": True} if done.returncode else None
        except subprocess.TimeoutExpired:
            last = {"left out": f"what comes after these rows; its {seconds:.0f} s were over"}
        output.seek(0)
        yield from map(json.loads, output)
    if last is not None:
        yield last


def sections(rows: list[Row]) -> Iterator[Section]:
    """The rows of each section, whatever step they came from, as tables; a column is what any of its rows has."""
    for title in dict.fromkeys(row["section"] for row in rows):
        inside = [{k: v for k, v in row.items() if k != "section"} for row in rows if row["section"] == title]
        columns = tuple(dict.fromkeys(itertools.chain.from_iterable(inside)))
        yield Section(title, columns, tuple(tuple(cell(row.get(column)) for column in columns) for row in inside))


def cell(value: object) -> str:
    """A value for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def write(page: Path, card: str, rows: list[Row], tables: list[Section], left_out: list[str]) -> None:
    """The page, and the same numbers as JSON beside it."""
    head = f"# Performance on a GPU\n\nWritten by `make gpu` at commit {commit()} on {card}.\n"
    missing = "\n".join(f"- {line}" for line in left_out) or "Nothing."
    text = "\n".join([head, *(section.markdown() for section in tables), f"## Left out\n\n{missing}\n"])
    page.write_text(text, encoding="utf-8")
    facts = {"commit": commit(), "card": card, "rows": rows, "left_out": left_out}
    page.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

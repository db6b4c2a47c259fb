"""What one waits for, and what one installs, before the first case."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import Path

import torch
from bundles import one_network
from environments import NNUNET, ROOT, nnunet
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sections import Pair, Section, compared
from shipped import traced

ROUNDS = 3
WORKER = Path(__file__).with_name("start_worker.py")
#: What of a checkout is in the wheel.
WHEEL = ("app/segsync", "training/segsync_train", "training/configs", "weights")
PEERS = {"monai": "MONAI with torch", "nnunet": "nnU-Net's package"}
INSTALLED = {"segsync": "segsync-isles[cpu]", "monai": "monai[nibabel]", "nnunet": "nnunetv2"}


def measure() -> Iterator[Section]:
    """Starts by the clock, medians of rounds in turn; sizes by the files of each package and of all it asks for."""
    pythons = {"segsync": sys.executable, "monai": sys.executable, "nnunet": str(nnunet())}
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder, one_network() as weights:
        script = traced(Path(folder) / "network.pt")
        for _ in range(ROUNDS):
            for name, python in pythons.items():
                network = weights if name == "segsync" else script
                command = [python, str(WORKER), name, str(time.monotonic()), str(network)]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                seconds[name].append(float(output.splitlines()[-1]))
    ready = {name: statistics.median(found) for name, found in seconds.items()}
    mib = {name: installed(INSTALLED[name], python) / 2**20 for name, python in pythons.items()}
    pairs = [
        Pair(what, title, found["segsync"], found[name], unit)
        for what, found, unit in (("start to a network that is ready", ready, "s"), ("installed size", mib, "MiB"))
        for name, title in PEERS.items()
    ]
    note = (
        f"`{INSTALLED['segsync']}` with its weights, `{INSTALLED['monai']}` and {NNUNET}, each with all that it asks "
        f"for; the isles22 network, for the peers as TorchScript. Torch is {torch.__version__}. MONAI "
        "imports what else it finds installed, and this environment holds much: it starts later here than alone."
    )
    yield compared("Start and installed size", pairs, note)


def installed(package: str, python: str) -> int:
    """Bytes of a package's files and of those of all that it asks for, in an environment."""
    command = [python, "-c", "import sys; print(*sys.path, sep='\\n')"]
    paths = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = closure(package, paths)
    files = [Path(str(one.locate_file(file))) for one in found.values() for file in one.files or ()]
    if "segsync-isles" in found:  # installed from this checkout: its metadata name none of the files
        files += [file for part in WHEEL for file in (ROOT / part).rglob("*") if file.suffix != ".pyc"]
    return sum(file.stat().st_size for file in files if file.is_file())


def closure(package: str, paths: Sequence[str]) -> dict[str, Distribution]:
    """A package and those that it asks for, by name."""
    found: dict[str, Distribution] = {}
    done: set[tuple[str, str]] = set()
    todo = [Requirement(package)]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        extras = {extra for extra in ("", *wanted.extras) if (name, extra) not in done}
        done |= {(name, extra) for extra in extras}
        found[name] = next(iter(Distribution.discover(name=wanted.name, path=list(paths))))
        todo += [further for text in found[name].requires or () if _holds(further := Requirement(text), extras)]
    return found


def _holds(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether an installation with these extras asks for it here."""
    marker = requirement.marker
    return any(marker is None or marker.evaluate({"extra": extra}) for extra in extras)

"""What of segsync is there on this machine, and what is missing: for `segsync info`."""

import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import segsync
from segsync.bundle import SPEC_FILE, load_bundle
from segsync.engine import providers
from segsync.errors import ResourceError, WeightsError
from segsync.predict import WEIGHTS_PLACES, find_weights, task_of
from segsync.tasks import TASKS, Task
from segsync.versions import versions

Facts = dict[str, Any]


def installation(weights: Path | None = None) -> Facts:
    """Tasks with their weights, execution providers and versions, as JSON holds them.

    Args:
        weights: Folder of weights; None looks where the container keeps them.

    Returns:
        `segsync` (version), `providers`, `versions`, `tasks` (name, title, channels, weights) and `missing`: one line
        for each thing without which a command would fail.
    """
    missing: list[str] = []
    found_providers: list[str] = []
    try:
        found_providers = providers()
    except ResourceError as error:
        missing.append(str(error))
    tasks = [_task_facts(task, weights, missing) for task in (*TASKS.values(), *_own_tasks(weights, missing))]
    return {
        "segsync": segsync.__version__,
        "providers": found_providers,
        "versions": versions(),
        "tasks": tasks,
        "missing": missing,
    }


def as_table(facts: Facts) -> str:
    """The same for people: as wide as their terminal."""
    table = Table("task", "what", "channels", "weights")
    for entry in facts["tasks"]:
        held = entry["weights"]
        shown = "unusable: see below" if "unusable" in held else held.get("name", "none")
        table.add_row(entry["name"], entry["title"], ", ".join(entry["channels"]), shown)
    console = Console()
    with console.capture() as captured:
        console.print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()), highlight=False)
        console.print(f"providers: {', '.join(facts['providers']) or 'none'}", highlight=False)
        console.print(table)
        for line in facts["missing"]:
            console.print(f"missing: {line}", highlight=False, markup=False)
    return captured.get().rstrip("\n")


def folders_of_weights(place: Path) -> list[Path]:
    """The folders of weights at a place: itself, or those in it."""
    return [spec.parent for spec in (*place.glob(SPEC_FILE), *sorted(place.glob(f"*/{SPEC_FILE}")))]


def _task_facts(task: Task, weights: Path | None, missing: list[str]) -> Facts:
    found: dict[str, str] = {}
    try:
        found["folder"] = str(find_weights(task.name, weights))
        bundle = load_bundle(Path(found["folder"]), task.name)
        if bundle.spec.region_model is not None:
            load_bundle(bundle.folder.parent / bundle.spec.region_model)
        found |= {"name": bundle.spec.name, "sha256": bundle.spec.sha256}
    except WeightsError as error:
        found["unusable" if "folder" in found else "missing"] = str(error)
        missing.append(f"{task.name}: {error}")
    channels = [channel.name + ("" if channel.required else " (optional)") for channel in task.channels]
    return {"name": task.name, "title": task.title, "channels": channels, "weights": found}


def _own_tasks(weights: Path | None, missing: list[str]) -> list[Task]:
    """The tasks, no challenge's, of weights that are there and can be used."""
    found: dict[str, Task] = {}
    for place in (weights,) if weights is not None else WEIGHTS_PLACES:
        with contextlib.suppress(OSError):  # a place that may not be read holds no weights for us
            for folder in folders_of_weights(place):
                try:
                    task = task_of(load_bundle(folder).spec)
                except WeightsError as error:
                    if folder.name not in TASKS and folder != place:
                        missing.append(str(error))
                else:
                    found.setdefault(task.name, task)
    return [task for name, task in found.items() if name not in TASKS]

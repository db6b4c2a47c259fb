"""The command `plan`: a folder of labelled cases becomes settings that train unchanged, and a page to check."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from segsync.atomic import whole_file, why_not
from segsync.errors import InputError, OutputError
from segsync_train.config.data import FolderData
from segsync_train.config.labels import LabelSet
from segsync_train.data.adapters import DATASETS
from segsync_train.data.cases import LabelledCase
from segsync_train.data.dataset import find_cases, prepare_case, public
from segsync_train.data.formats import bids_channels, nnunet_description
from segsync_train.data.layout import CaseFiles
from segsync_train.data.splits import groups_of
from segsync_train.planning.fingerprint import Fingerprint, fingerprint
from segsync_train.planning.memory import parse_memory
from segsync_train.planning.page import fingerprint_page
from segsync_train.planning.rules import Plan, Wanted, make_plan
from segsync_train.runs.progress import StepProgress

log = logging.getLogger(__name__)

#: Cases that the page shows: at these quantiles of the labelled volume.
SHOWN = (0.1, 0.5, 0.9)
#: Planned for where nothing is said and no GPU is there to ask.
MEMORY = {"gpu": "11GB", "cpu": "8GB"}


def plan(
    folder: Path,
    output: Path,
    *,
    layout: str = "nnunet",
    channels: Sequence[str] = (),
    group: str = "subject",
    folds: int = 5,
    memory: str | None = None,
    device: str = "auto",
    network: str | None = None,
    task: str | None = None,
    threads: int = 2,
) -> Plan:
    """Write settings, and beside them the fingerprint as JSON and as a page.

    Args:
        folder: Labelled cases.
        output: The settings' file, YAML. `NAME.fingerprint.json` and `NAME.fingerprint.html` go beside it.
        layout: How the folder is laid out.
        channels: Names of the channels to read, the one that the labels lie on first; all if empty.
        group: What stays on one side of a split (`data.group`).
        folds: Of a cross-validation.
        memory: What training may take, as in `11GB`; None: what the GPU has, or 8 GB on a CPU.
        device: `auto`, `cpu` or `cuda`.
        network: A preset; None chooses one for the device.
        task: For the exported weights; None: the data set's challenge, or the folder's name.
        threads: Cases are read by so many at once.

    Returns:
        The plan.

    Raises:
        InputError: The folder is not what it should be, or no patch fits into the memory.
        OutputError: A file cannot be written.
    """
    folder = folder.resolve()
    kind = "cpu" if device == "cpu" or (device == "auto" and not torch.cuda.is_available()) else "gpu"
    said = memory or _own_memory(kind)
    size = parse_memory(said)
    cases, names, labels, optional = _cases(layout, folder, channels)
    groups = groups_of(cases, FolderData(folder=folder, layout=layout, group=group))
    with StepProgress("reading cases", len(cases)) as progress:
        found = fingerprint(
            cases, names, labels, groups, folder=folder, layout=layout, group=group, threads=threads,
            progress=progress.advance,
        )  # fmt: skip
    name = task or _task(layout, folder)
    wanted = Wanted(name, kind, size, said, network, folds, optional)
    made = make_plan(found, wanted)
    shown = [prepare_case(case, made.config.case_spec) for case in _shown(cases, found)]
    _write(output, found, made, shown)
    return made


def _own_memory(kind: str) -> str:
    if kind == "gpu" and torch.cuda.is_available():
        return f"{0.9 * torch.cuda.get_device_properties(0).total_memory / 1e9:.1f}GB"
    return MEMORY[kind]


def _task(layout: str, folder: Path) -> str:
    own = DATASETS[layout].task or layout if layout in DATASETS else folder.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", own).strip("-.") or "lesions"


def _cases(
    layout: str, folder: Path, wanted: Sequence[str]
) -> tuple[list[CaseFiles], list[str], LabelSet, tuple[str, ...]]:
    """Labelled cases, channels, labels (empty where any value will do), and the channels that cases lack."""
    labels = LabelSet()
    if layout in DATASETS:
        theirs, labels = list(DATASETS[layout].channels), LabelSet(labels=dict(DATASETS[layout].labels))
    elif layout == "nnunet":
        theirs, labels = nnunet_description(folder)
    else:
        theirs = bids_channels(folder) if layout == "bids" and folder.is_dir() else ["image"]
    names = list(wanted) or theirs
    if layout == "nnunet" and wanted and sorted(wanted) != sorted(theirs):
        raise InputError(
            f"--channel: expected all channels of {folder} ({', '.join(theirs)}), found {', '.join(wanted)}; nnU-Net's "
            "folders are read whole"
        )
    found = public(find_cases(layout, folder, names))
    first = names[0]
    optional = tuple(
        name for name in names if name != first and any(name not in case.images for case in found if case.images)
    )
    for case in found:
        if first not in case.images:
            raise InputError(
                f"{folder}: case {case.name}: expected an image of the channel {first!r}, on which the labels lie, "
                f"found {', '.join(case.images) or 'none'}; add it, or name another channel first with --channel"
            )
    unlabelled = [case.name for case in found if not case.label_files]
    if len(unlabelled) < len(found):
        for name in unlabelled:
            raise InputError(
                f"{folder}: case {name}: no label map ({len(unlabelled)} of {len(found)} cases "
                "lack theirs); add it or take the case out"
            )
    if not found or unlabelled:
        raise InputError(f"{folder}: no labelled cases; check the folder and --layout")
    if not labels.labels and layout in DATASETS and DATASETS[layout].masks:
        names_of_masks = sorted({name for case in found for name in case.masks})
        labels = LabelSet(labels=dict(enumerate(names_of_masks, start=1)))
    for name in optional:
        log.warning("channel %s: some cases lack it, so that it is planned as optional", name)
    return found, names, labels, optional


def _shown(cases: Sequence[CaseFiles], found: Fingerprint) -> list[CaseFiles]:
    """Cases of small, middling and large labels."""
    held = [case for case in cases if found.cases[case.name].volume_ml]
    held.sort(key=lambda case: found.cases[case.name].volume_ml)
    places = dict.fromkeys(round(float(q) * (len(held) - 1)) for q in SHOWN)
    return [held[place] for place in places]


def _write(output: Path, found: Fingerprint, made: Plan, shown: Sequence[LabelledCase]) -> None:
    stem = output.with_suffix("")
    texts = {
        Path(f"{stem}.fingerprint.json"): found.model_dump_json(indent=1) + "\n",
        Path(f"{stem}.fingerprint.html"): fingerprint_page(found, made, shown),
        output: settings_text(made),
    }
    for path, text in texts.items():
        try:
            with whole_file(path) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: expected to write it, found {why_not(path.parent, error)}") from error


def settings_text(made: Plan) -> str:
    """The settings as YAML, each with its reason above."""
    lines = [
        "# Planned by `segsync-train plan`; the rules that are nnU-Net's follow Isensee et al. 2021 and nnU-Net v2.",
        "# Train: segsync-train crossval -c THIS_FILE -o RUN (or finetune). First look at the page beside this file.",
    ]
    for key, value in made.settings.items():
        lines += [f"# {line}" for line in made.reasons.get(key, "").splitlines()]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{key}:")
            lines += [f"  - {_flow(item)}" for item in value]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    """A value in one line."""
    plain = value.item() if isinstance(value, np.generic) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()

"""Folders of scores as `segsync-train evaluate` writes them, drawn from a seed: nothing is trained."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders import grid_of, write_image
from segsync.atomic import write_texts
from segsync_train.comparison.grouping import group_runs
from segsync_train.comparison.scores import Setting, read_run
from segsync_train.data.layout import CaseFiles
from segsync_train.evaluation.metrics import RULES, Scores
from segsync_train.evaluation.summary import Row, write_results
from segsync_train.evaluation.system import SYSTEM_FILE, Budget, System

CASES = tuple(f"case{number:02d}" for number in range(8))
LABELS = {1: "anterior", 2: "posterior"}
SYSTEMS = {"3D-SegSync": 0.93, "xLSTM-UNet": 0.9, "3D-UNet": 0.85}
GRID = grid_of((4, 12, 12), (3.0, 1.0, 1.0))


def write_scores(
    folder: Path,
    name: str,
    skill: float,
    *,
    data: str = "hippocampus",
    trained_on: str | None = None,
    cases: Sequence[str] = CASES,
    labels: Mapping[int, str] = LABELS,
    seed: int = 0,
    missed: Sequence[str] = (),
    files: Mapping[str, CaseFiles] | None = None,
    **changes: Any,
) -> Path:
    """Scores of a system whose Dice is about `skill`; cases are as hard for each. missed: where it finds nothing."""
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    hardness = np.random.default_rng([7, *data.encode()]).gamma(2.0, 0.03, (len(cases), len(labels)))
    rows = []
    for case, of_labels in zip(cases, hardness, strict=True):
        for (value, label), hard in zip(labels.items(), of_labels, strict=True):
            dice = float(np.clip(skill - hard + 0.015 * rng.standard_normal(), 0.02, 0.99))
            hd95 = float((1.05 - dice) * 20 * rng.gamma(12, 1 / 12))
            found = case not in missed
            rows.append(
                Row(
                    case,
                    value,
                    label,
                    Scores(
                        dice=dice if found else 0.0,
                        hd_mm=2.1 * hd95 if found else np.nan,
                        hd95_mm=hd95 if found else np.nan,
                        assd_mm=0.2 * hd95 if found else np.nan,
                        volume_ml=3.0,
                        predicted_ml=3.0 * dice,
                        volume_difference_ml=3.0 * (1 - dice),
                        relative_volume_difference=1 - dice,
                        lesions=1,
                        predicted_lesions=1,
                        lesion_count_difference=0,
                        lesion_f1=1.0,
                    ),
                )
            )
    write_results(rows, RULES["isles22"], folder)
    system = System(
        name=name,
        data=data,
        trained_on=trained_on or data,
        rules="isles22",
        settings={"seed": seed, "steps": 100, "data": {"kind": "folder", "folder": str(folder), "labelled": 1.0}},
        budget=Budget(
            parameters=1_250_000,
            gflops=134.2,
            patch_zyx=(64, 64, 64),
            batch=2,
            steps=100,
            hours=0.5,
            inherited_steps=300,
            inherited_hours=1.0,
            hardware="2 threads of an x86_64 CPU",
            seconds_per_step=1.5 + seed,
            peak_memory_mib=2048.0,
        ),
        cases=dict(files) if files else {case: CaseFiles(case, {}) for case in cases},
        masks={},
    )
    text = system.model_copy(update=changes).model_dump_json()
    write_texts({SYSTEM_FILE: text}, folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV file, by column."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def setting_of(*folders: Path, reference: str = "3D-SegSync") -> Setting:
    """What the folders' one setting holds."""
    (setting,) = group_runs([read_run(str(folder)) for folder in folders], reference)
    return setting


def square(first: int) -> npt.NDArray[np.uint8]:
    """A plate in slice 2, from `first` along X on."""
    array = np.zeros(GRID.size_zyx, np.uint8)
    array[2, 3:7, first : first + 4] = 1
    return array


def with_masks(tmp_path: Path, names: dict[str, float]) -> list[Path]:
    """Scores of systems whose masks lie one voxel further on than the truth, the second's two, and so on."""
    cases = ("a", "b", "c", "d", "e")
    files = {}
    for case in cases:
        image, label = tmp_path / f"{case}-t1.nii.gz", tmp_path / f"{case}-label.nii.gz"
        write_image(image, np.full(GRID.size_zyx, 50.0, np.float32), GRID)
        write_image(label, square(3), GRID)
        files[case] = CaseFiles(case, {"t1": image}, label)
    masks = {case: Path("masks", f"{case}.nii.gz") for case in cases}
    folders = []
    for place, (name, skill) in enumerate(names.items(), start=1):
        about: dict[str, Any] = {
            "data": "mmwhs-ct",
            "labels": {1: "ball"},
            "files": files,
            "masks": masks,
            "reference": "t1",
        }
        folders.append(write_scores(tmp_path / name, name, skill, cases=cases, **about))
        for path in masks.values():
            write_image(folders[-1] / path, square(3 + place), GRID)
    return folders

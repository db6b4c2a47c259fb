"""Folders of scores as `segsync-train evaluate` writes them, drawn from a seed: nothing is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segsync.atomic import write_texts
from segsync_train.data.layout import CaseFiles
from segsync_train.evaluation.metrics import RULES, Scores
from segsync_train.evaluation.summary import Row, write_results
from segsync_train.evaluation.system import SYSTEM_FILE, Budget, System

CASES = tuple(f"case{number:02d}" for number in range(8))
LABELS = {1: "anterior", 2: "posterior"}


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

"""Miniature data and settings for tests of training: bright balls to find, a network of a few hundred weights."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from segsync_train.config.run import RunConfig

SIZE = 16
#: Settings of an augmentation that changes nothing, but for `rotate_zoom`.
NO_AUGMENTATION: dict[str, Any] = {
    "flip": 0, "noise": 0, "smooth": 0, "brightness": 0, "contrast": 0, "gamma": 0, "shift": 0
}  # fmt: skip


def write_cases(folder: Path, count: int = 4) -> Path:
    """A folder in nnU-Net's format: noise with one bright ball, labelled 1; returns it."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        centre = rng.integers(5, SIZE - 5, 3)
        distance = np.linalg.norm(np.indices((SIZE,) * 3) - centre[:, None, None, None], axis=0)
        label = (distance < 3.5).astype(np.uint8)
        image = 100 + 10 * rng.standard_normal(label.shape) + 80 * label
        sitk.WriteImage(
            sitk.GetImageFromArray(image.astype(np.float32)),
            str(folder / "imagesTr" / f"case{number}_0000.nii.gz"),
        )
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / "labelsTr" / f"case{number}.nii.gz"))
    return folder


def run_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run on such a folder, as YAML gives them; seconds on one core."""
    settings: dict[str, Any] = {
        "name": "miniature",
        "task": "custom",
        "data": {"kind": "folder", "folder": str(folder), "validation": 0.25},
        "channels": [{"name": "t1", "normalisation": {"kind": "zscore"}}],
        "labels": {1: "ball"},
        "spacing_zyx": [1, 1, 1],
        "patch_zyx": [8, 8, 8],
        "network": {
            "preset": "tiny",
            "overrides": {"widths": [4, 8], "strides_zyx": [[1, 1, 1], [2, 2, 2]], "vil_stages": [1]},
        },
        "batch": 2,
        "steps": 6,
        "optimiser": {"lr": 0.01},
        "validation": {"every": 3, "overlays": 1},
        "ema": 0.9,
        "workers": 0,
        "device": "cpu",
        "checkpoint_every": 2,
        "log_every": 1,
    }
    return settings | changes


def run_config(folder: Path, **changes: Any) -> RunConfig:
    """The same, checked."""
    return RunConfig.model_validate(run_settings(folder, **changes))


def provenance(config: RunConfig, steps: int = 1) -> dict[str, Any]:
    """What `model.json` says of a training by these settings."""
    agreement = {"largest_difference": 0.0, "smallest_dice": 1.0}
    return {
        "config": config.model_dump(mode="json"), "parameters": 1, "steps": steps, "training_hours": 1.5,
        "hardware": "a CPU", "commit": "0", "torch": "2", "inherited": {"steps": 0, "hours": 0.0},
        "agreement": {"float16": agreement, "float32": agreement}, "operating_point": {"cases": 0},
    }  # fmt: skip


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []

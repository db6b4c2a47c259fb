"""Settings of a pretraining for tests: a network of a few hundred weights, seconds on one core; and its volumes."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from segsync_train.ssl.config import PretrainConfig
from training_cases import write_cases


def write_volumes(folder: Path) -> Path:
    """Eight volumes, each with a texture of its own; the labels are no images: nobody may read them."""
    write_cases(folder, 8)
    for path in (folder / "labelsTr").iterdir():
        path.write_bytes(b"held back")
    for number, path in enumerate(sorted((folder / "imagesTr").iterdir())):
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        wave = np.sin(np.indices(image.shape).sum(0) * (0.3 + 0.25 * number))
        sitk.WriteImage(sitk.GetImageFromArray((image + 60 * wave).astype(np.float32)), str(path))
    return folder


def pretrain_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run on a folder of `training_cases.write_cases`, as YAML gives them."""
    settings: dict[str, Any] = {
        "name": "miniature",
        "task": "custom",
        "data": {"kind": "folder", "folders": [{"folder": str(folder), "layout": "nnunet"}]},
        "channels": [{"name": "t1", "normalisation": {"kind": "zscore"}}],
        "spacing_zyx": [1, 1, 1],
        "patch_zyx": [8, 8, 8],
        "network": {
            "preset": "tiny",
            "overrides": {"widths": [4, 8], "strides_zyx": [[1, 1, 1], [2, 2, 2]], "vil_stages": [1]},
        },
        "head": {"hidden": 16, "bottleneck": 8, "prototypes": 16},
        "batch": 2,
        "steps": 6,
        "optimiser": {"lr": 0.01},
        "held_out": {"every": 3},
        "workers": 0,
        "device": "cpu",
        "checkpoint_every": 2,
        "log_every": 1,
    }
    return settings | changes


def pretrain_config(folder: Path, **changes: Any) -> PretrainConfig:
    """The same, checked."""
    return PretrainConfig.model_validate(pretrain_settings(folder, **changes))

"""Settings of a pretraining for tests: a network of a few hundred weights, seconds on one core."""

from pathlib import Path
from typing import Any

from segsync_train.ssl.config import PretrainConfig


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

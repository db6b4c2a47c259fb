"""Runs in nnU-Net's environment, not in this project's: steps of its own trainer, with networks that its planner makes.

Usage: python nnunet_trainer.py FOLDER SIDE ROUNDS. One patch of SIDE³ a step, noise. Prints a line of JSON: by planner,
parameters and the processor's seconds of a step; nothing is read or augmented.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

NAME = "Dataset001_Bench"
#: What the planner is told of the cases: as large as asks for six stages.
CASE = {"spacings": [1.0] * 3, "shapes_after_crop": [192] * 3}
ABOUT = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
PLANNERS = {"plainconv": "ExperimentPlanner", "resenc-l": "nnUNetPlannerResEncL"}


def dataset(folder: Path) -> dict[str, Any]:
    """A data set of one image, with the fingerprint of ten that the planner reads; where nnU-Net looks for it."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / variable / NAME).mkdir(parents=True)
        os.environ[variable] = str(folder / variable)
    raw = folder / "nnUNet_raw" / NAME
    for part, name in (("imagesTr", "case_0000.nii.gz"), ("labelsTr", "case.nii.gz")):
        (raw / part).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 8), np.uint8)), str(raw / part / name))
    about = {**ABOUT, "numTraining": 1}
    (raw / "dataset.json").write_text(json.dumps(about))
    fingerprint: dict[str, Any] = {key: [value] * 10 for key, value in CASE.items()}
    fingerprint |= {"median_relative_size_after_cropping": 1.0, "foreground_intensity_properties_per_channel": {}}
    (folder / "nnUNet_preprocessed" / NAME / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return about


def steps(planner: str, about: dict[str, Any], side: int, rounds: int) -> dict[str, float]:
    """Medians of its trainer's steps, the first left out."""
    from nnunetv2.experiment_planning import experiment_planners
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    where = str(Path(experiment_planners.__path__[0]))
    made: Any = recursive_find_python_class(where, planner, "nnunetv2.experiment_planning.experiment_planners")
    plans = made(NAME, plans_name=planner).plan_experiment()
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"], configuration["batch_size"] = [side] * 3, 1
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", 0, about, torch.device("cpu"))
    torch.set_num_threads(1)
    architecture = (trainer.plans_manager, trainer.configuration_manager, 1, 2, True)
    trainer.network = trainer.build_network_architecture(*architecture).train()
    trainer.optimizer, _ = trainer.configure_optimizers()
    trainer.loss = trainer._build_loss()
    label = torch.randint(0, 2, (1, 1, side, side, side))
    scales = trainer._get_deep_supervision_scales()
    strides = [[round(1 / scale) for scale in scales_zyx] for scales_zyx in scales]
    batch = {
        "data": torch.randn(1, 1, side, side, side),
        "target": [label[:, :, ::z, ::y, ::x] for z, y, x in strides],
    }
    seconds = []
    for _ in range(rounds + 1):
        began = time.process_time()
        trainer.train_step(batch)
        seconds.append(time.process_time() - began)
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    return {"parameters": parameters, "seconds": statistics.median(seconds[1:])}


if __name__ == "__main__":
    about_ = dataset(Path(sys.argv[1]))
    found = {name: steps(planner, about_, int(sys.argv[2]), int(sys.argv[3])) for name, planner in PLANNERS.items()}
    sys.stdout.write("\n" + json.dumps(found) + "\n")

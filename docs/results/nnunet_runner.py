"""Runs in nnU-Net's environment, not in this project's: some updates of its own trainer, then its own validation.

Usage: python nnunet_runner.py DATASET STEPS EPOCHS. Prints a line of JSON: parameters, and the processor's seconds that
the training process spent on a step (the network's; augmentation is in other processes).
"""

import json
import sys
import time
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args


def main() -> None:
    dataset, steps, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    trainer = get_trainer_from_args(
        dataset, "3d_fullres", 0, "nnUNetTrainer", "nnUNetPlans", device=torch.device("cpu")
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, steps // epochs
    trainer.num_val_iterations_per_epoch = 1
    seconds: list[float] = []
    step = trainer.train_step

    def timed(batch: Any) -> Any:
        began = time.process_time()
        found = step(batch)
        seconds.append(time.process_time() - began)
        return found

    trainer.train_step = timed
    trainer.run_training()
    trainer.perform_actual_validation(save_probabilities=False)
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    sys.stdout.write(
        "\n"
        + json.dumps({"parameters": parameters, "steps": len(seconds), "seconds": sum(seconds) / len(seconds)})
        + "\n"
    )


if __name__ == "__main__":
    main()

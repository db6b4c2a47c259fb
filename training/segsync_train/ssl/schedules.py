"""Schedules of pretraining, each a function of the step alone."""

import math


def teacher_momentum(first: float, step: int, steps: int) -> float:
    """The momentum m of eq. 1: from `first` to 1 along a half cosine (BYOL, Grill et al. 2020).

    A teacher that stands still at the end gives the student a fixed target.

    Args:
        first: At the first step.
        step: From 0.
        steps: Of the training.
    """
    return 1 - (1 - first) * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))) / 2


def teacher_temperature(first: float, last: float, warmup: int, step: int) -> float:
    """τ of eqs. 9 and 10: linear from `first` to `last` in `warmup` steps (DINO, Caron et al. 2021).

    A sharp target at the start keeps the output from becoming uniform before there is anything to tell apart.
    """
    return last if step >= warmup else first + (last - first) * step / warmup

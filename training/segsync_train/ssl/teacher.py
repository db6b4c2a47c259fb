"""A teacher is the moving average of its student."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """θt ← m θt + (1 − m) θs (eq. 1 of 3D-SegSync) for every parameter."""
    average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
    average(tuple(teacher.parameters()), tuple(student.parameters()), 0)

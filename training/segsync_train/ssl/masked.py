"""The masked-patch term: the student tells what the teacher sees where its own view is masked (iBOT, Zhou et al. 2022).

DINOv2 keeps it beside the loss on whole images; here it is what trains features voxel by voxel, as segmentation needs.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segsync.arrays import SizeZYX
from segsync_train.runs.devices import Processes
from segsync_train.ssl.centering import RunningCentre
from segsync_train.ssl.config import DistillationConfig
from segsync_train.ssl.head import PlainHead, ProjectionHead
from segsync_train.ssl.terms import cross_entropy


def draw_masks(grid_zyx: SizeZYX, ratio: float, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Masks (B, Z, Y, X) over cells of a stage's grid, True where hidden; the same number of cells in every sample."""
    cells = int(np.prod(grid_zyx))
    hidden = min(cells - 1, max(1, round(ratio * cells)))
    masks = np.zeros((len(rngs), cells), dtype=bool)
    for mask, rng in zip(masks, rngs, strict=True):
        mask[rng.choice(cells, hidden, replace=False)] = True
    return torch.from_numpy(masks.reshape(len(rngs), *grid_zyx))


def hide(view: Tensor, masks: Tensor) -> Tensor:
    """A view (B, C, z, y, x) with the masks' cells set to 0, the mean of standardised tissue."""
    shown = F.interpolate((~masks).to(view.dtype)[:, None], size=view.shape[2:], mode="nearest")
    return view * shown


class MaskedPatches(torch.nn.Module):
    """Targets and loss of the masked cells at one stage; the heads belong to student and teacher.

    Each cell has its own centre: student and teacher see the same view, padding tells both where a cell lies, and with
    one centre for all the place alone comes to be the target.
    """

    def __init__(self, grid_zyx: SizeZYX, config: DistillationConfig, group: Processes) -> None:
        super().__init__()
        shape = (math.prod(grid_zyx), config.head.prototypes)
        self.centre = RunningCentre(shape, config.centring.momentum, group)
        self.student_temperature = config.teacher.student_temperature

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        heads: tuple[ProjectionHead | PlainHead, ProjectionHead | PlainHead],
        masks: Tensor,
        temperature: float,
    ) -> Tensor:
        """Mean cross-entropy over hidden cells.

        Args:
            student: Feature maps (B, D, Z, Y, X) of the masked view.
            teacher: Of the whole view.
            heads: The student's and the teacher's.
            masks: As from `draw_masks`.
            temperature: Of the teacher's softmax.

        Returns:
            The loss.
        """
        student_head, teacher_head = heads
        with torch.no_grad():
            targets = self.centre(teacher_head(teacher.flatten(2).transpose(1, 2)), temperature)[masks.flatten(1)]
        logits = student_head(student.movedim(1, -1)[masks])
        return cross_entropy(logits, targets, self.student_temperature)

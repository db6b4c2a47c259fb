"""3D-SegSync's self-supervised pretraining: self-distillation between two views, at every stage of the encoder.

The paper's Appendix C, by equation:

    (1)      θt ← m θt + (1 − m) θs              `update_teacher`
    (2)      x1, x2 = Augment(x)                 `segsync_train.ssl.views`
    (3, 4)   h = f(x; θs),  h' = f(x; θt)        `Branch.encoder`, of the student and of the teacher
    (5, 6)   v = GAP(h)                          `terms.global_average_pool`
    (7, 8)   z = MLP(v)                          `Branch.heads`
    (9, 10)  q' = Softmax(Center(z') / τ)        `segsync_train.ssl.centering`
    (11)     L = ½ [L(z1, q2') + L(z2, q1')]     `terms.cross_view`
    (12)     L(z, q) = −Σk q[k] log Softmax(z)[k]   `terms.cross_entropy`

With multi-layer features every stage has its own GAP, MLP and centre, and L is the mean over the stages; `bottom` has
the deepest alone. Around it stands what DINO and DINOv2 found to be needed, above all at a batch of two.
"""

import copy
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segsync.arrays import SizeZYX
from segsync_train.networks.features import FeatureEncoder
from segsync_train.runs.devices import Processes
from segsync_train.ssl.centering import RunningCentre, SinkhornKnopp
from segsync_train.ssl.config import DistillationConfig
from segsync_train.ssl.head import Standardise, make_head
from segsync_train.ssl.koleo import koleo_loss
from segsync_train.ssl.masked import MaskedPatches, draw_masks, hide
from segsync_train.ssl.monitors import CollapseMonitor, SegSyncOutput, StageOutput
from segsync_train.ssl.pretext import Draws, Pretext
from segsync_train.ssl.schedules import teacher_momentum, teacher_temperature
from segsync_train.ssl.teacher import update_teacher
from segsync_train.ssl.terms import (
    cross_entropy,
    cross_view,
    entropy,
    global_average_pool,
    output_error,
    squared_error,
)
from segsync_train.ssl.views import Views

#: Purposes of generators.
FIRST, SECOND, MASKS = 1, 2, 3


class Branch(nn.Module):
    """Student or teacher: the encoder, an MLP for each trained stage, and one for masked cells."""

    def __init__(self, encoder: FeatureEncoder, config: DistillationConfig) -> None:
        super().__init__()
        widths, stages = encoder.widths, trained_stages(config.layers, encoder)
        self.encoder = encoder
        self.heads = nn.ModuleDict({str(stage): make_head(widths[stage], config.head) for stage in stages})
        masked = config.objective.masked
        self.masked = make_head(widths[config.objective.mask_stage], config.head) if masked else None


def trained_stages(layers: Literal["all", "bottom"], encoder: FeatureEncoder) -> tuple[int, ...]:
    """Stages (0 is the finest) whose features are trained: all, or the deepest alone."""
    count = len(encoder.widths)
    return tuple(range(count)) if layers == "all" else (count - 1,)


class SegSync(Pretext):
    """Student, teacher and what lies between them. Statistics over samples are taken in training mode alone."""

    def __init__(
        self,
        encoder: FeatureEncoder,
        config: DistillationConfig,
        patch_zyx: SizeZYX,
        steps: int,
        group: Processes | None = None,
    ) -> None:
        """Put student and teacher on an encoder.

        Args:
            encoder: With fresh weights or those to go on from; the teacher starts as the student's copy.
            config: The settings of 3D-SegSync.
            patch_zyx: Voxels of a view.
            steps: Of the whole training, over which the teacher's momentum rises to 1.
            group: The run's processes; None is one alone.
        """
        super().__init__()
        group = group or Processes()
        self.config, self.steps = config, steps
        self.kept = f"{config.keep}.encoder"
        self.student = Branch(encoder, config)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.standardise, self.centres = nn.ModuleDict(), nn.ModuleDict()
        for stage in trained_stages(config.layers, encoder):
            decay, width = config.head.standardise, encoder.widths[stage]
            self.standardise[str(stage)] = nn.Identity() if decay is None else Standardise(width, decay, group)
            self.centres[str(stage)] = _centring(config, group)
        self.views = Views(config.views, patch_zyx)
        self.mask_grid = encoder.grid_zyx(patch_zyx, config.objective.mask_stage)
        self.masked = MaskedPatches(self.mask_grid, config, group) if config.objective.masked else None

    @property
    def trained(self) -> nn.Module:
        """The student."""
        return self.student

    def new_monitor(self) -> CollapseMonitor:
        """The signs of collapse at every trained stage."""
        widths = {int(stage): self.student.encoder.widths[int(stage)] for stage in self.student.heads}
        return CollapseMonitor(widths, self.config.head.prototypes)

    def inputs(self, windows: Tensor, draws: Draws, step: int) -> tuple[Any, ...]:
        """Eq. 2: two views of the same windows, and the temperature at this step.

        In training, masks as well where they are asked for.
        """
        x1, x2 = (self.views(windows, draws(view)).to(memory_format=torch.channels_last_3d) for view in (FIRST, SECOND))
        teacher, objective = self.config.teacher, self.config.objective
        temperature = teacher_temperature(*teacher.temperature, teacher.warmup_steps, step)
        if not objective.masked or draws.held_out:
            return x1, x2, temperature
        return x1, x2, temperature, draw_masks(self.mask_grid, objective.mask_ratio, draws(MASKS)).to(x1.device)

    def after_step(self, step: int) -> None:
        """Eq. 1."""
        update_teacher(self.teacher, self.student, teacher_momentum(self.config.teacher.momentum, step, self.steps))

    def settled(self, step: int) -> bool:
        """While the teacher's temperature rises the loss rises with it."""
        return step > self.config.teacher.warmup_steps

    def forward(self, x1: Tensor, x2: Tensor, temperature: float, masks: Tensor | None = None) -> SegSyncOutput:
        """Views (n, C, Z, Y, X); masks (n, z, y, x) of the first view's cells, without which that term is left out."""
        shown = x1 if masks is None else hide(x1, masks)
        student = self.student.encoder(torch.cat([shown, x2]))
        with torch.no_grad():
            teacher = self.teacher.encoder(torch.cat([x1, x2]))
        objective = self.config.objective
        stages, losses = {}, []
        for name in self.student.heads:
            loss, stages[int(name)] = self._stage(name, student[int(name)], teacher[int(name)], temperature)
            losses.append(loss)
        loss = views = torch.stack(losses).mean()
        terms = {}
        if objective.koleo:
            deepest = list(self.student.heads)[-1]
            first, second = self.standardise[deepest](global_average_pool(student[-1])).chunk(2)
            koleo = (koleo_loss(first) + koleo_loss(second)) / 2
            loss, terms["koleo"] = loss + objective.koleo * koleo, koleo.detach()
        if self.masked is not None and masks is not None:
            heads = (self.student.masked, self.teacher.masked)
            at, n = objective.mask_stage, len(x1)
            masked = self.masked(student[at][:n], teacher[at][:n], heads, masks, temperature)
            loss, terms["masked"] = loss + objective.masked * masked, masked.detach()
        features = next(reversed(stages.values())).features
        return SegSyncOutput(loss, terms, views.detach(), features, stages)

    def _stage(self, name: str, student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, StageOutput]:
        """Eqs. 5 to 12 at one stage."""
        objective, student_temperature = self.config.objective, self.config.teacher.student_temperature
        features = global_average_pool(teacher)
        standardise = self.standardise[name]
        if self.training and isinstance(standardise, Standardise):
            standardise.update(features)
        with torch.no_grad():
            outputs = self.teacher.heads[name](standardise(features))
            q = self.centres[name](outputs, temperature)
        z = self.student.heads[name](standardise(global_average_pool(student)))
        ce = cross_view(partial(cross_entropy, temperature=student_temperature), z, q)
        se = cross_view(partial(squared_error, temperature=student_temperature), z, q)
        own = entropy((z.detach() / student_temperature).softmax(-1))
        output = StageOutput(features, ce.detach(), se.detach(), entropy(q), own, q.mean(0))
        loss: Tensor = objective.cross_entropy * ce + objective.squared_error * se
        if objective.output_error:
            loss = loss + objective.output_error * cross_view(output_error, z, outputs)
        return loss, output


def _centring(config: DistillationConfig, group: Processes) -> RunningCentre | SinkhornKnopp:
    if config.centring.kind == "sinkhorn":
        return SinkhornKnopp(config.head.prototypes, config.centring.queue, group)
    return RunningCentre((config.head.prototypes,), config.centring.momentum, group)

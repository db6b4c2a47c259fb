"""Is the pretraining collapsing? What each step gives is summed up, and a collapse is named with its cause.

Self-distillation has solutions that tell nothing of the input, and its loss falls towards them as towards a good one.
Let H be the entropy of an output, K the number of prototypes:

- uniform: every output has H = ln K. The cross-entropy stands at ln K.
- constant: one output whatever the input. The cross-entropy falls to 0 or to that output's H, the KL divergence to 0.
  The mean output is then no broader than a single one: their mutual information with the input,
  H(mean q) − mean H(q), is 0.
- features: the pooled vectors stop to vary (SimSiam, Chen and He 2021), or vary in one direction alone (RankMe, Garrido
  et al. 2023), or differ as much between two views of a volume as between volumes (a kNN probe without labels).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segsync_train.ssl.pretext import Monitor, StepOutput
from segsync_train.ssl.terms import entropy

#: Decay of the running means: about the last fifty steps.
DECAY = 0.98


@dataclass(frozen=True)
class Thresholds:
    """Where a reading speaks of collapse; healthy runs stay well away from each (test/test_monitors.py)."""

    #: Fractions of ln K. Fresh heads give the student 0.9 and the teacher 0.4 to 0.6.
    uniform_entropy: float = 0.98
    #: The cross-entropy is at ln K when it is within this fraction of it.
    uniform_cross_entropy: float = 0.02
    #: The cross-entropy has fallen to 0 below this fraction of ln K.
    constant_cross_entropy: float = 0.05
    #: The KL divergence has fallen to 0 below this fraction of ln K; it is a collapse only without information.
    zero_kl: float = 0.002
    #: Mutual information of output and input, as a fraction of ln K. Four volumes told apart already give 0.2 of ln
    #: 1024.
    information: float = 0.01
    #: Standard deviation of pooled features over their root mean square: 0.02 to 0.2 in a fresh encoder.
    deviation: float = 1e-3
    #: RankMe of centred features: 1 is a single direction. A fresh encoder's is 4 or more.
    rank: float = 1.5
    #: kNN probe: 0.5 is chance (standard error 0.03 over 128 volumes), 1 perfect. It speaks of collapse in a stage that
    #: once reached `probe_known`: in fresh ones, above all the finest, strong views leave it at chance.
    probe: float = 0.56
    probe_known: float = 0.65
    #: Evaluations in a row, after the memory is full, that must agree: the first steps settle, and chance happens.
    patience: int = 3


@dataclass(frozen=True)
class StageOutput:
    """What one stage gave, for the monitors; without gradients. n is the number of volumes.

    Attributes:
        features: The teacher's pooled vectors (2n, D), first views, then second.
        cross_entropy: Eq. 11's, in nats.
        squared_error: Section 2.4's.
        target_entropy: Mean over the samples, in nats.
        student_entropy: Likewise.
        target_mean: (K,) mean of the targets.
    """

    features: Tensor
    cross_entropy: Tensor
    squared_error: Tensor
    target_entropy: Tensor
    student_entropy: Tensor
    target_mean: Tensor


@dataclass(frozen=True)
class SegSyncOutput(StepOutput):
    """The loss of a batch, and by stage (0 is the finest) what it is made of."""

    stages: Mapping[int, StageOutput] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """A stage's state over the last steps; entropies in nats."""

    stage: int
    log_prototypes: float
    cross_entropy: float
    target_entropy: float
    student_entropy: float
    mean_entropy: float
    deviation: float
    rank: float
    probe: float
    best_probe: float

    @property
    def kl(self) -> float:
        """KL divergence of the student from the teacher's other view: eq. 12 less the targets' entropy."""
        return max(0.0, self.cross_entropy - self.target_entropy)

    @property
    def information(self) -> float:
        """Mutual information of the teacher's output and the input."""
        return max(0.0, self.mean_entropy - self.target_entropy)

    def named(self) -> Iterator[tuple[str, float]]:
        """As lines of the log, `monitor/stage4/rank` among them."""
        for name in (
            "cross_entropy",
            "kl",
            "target_entropy",
            "student_entropy",
            "information",
            "deviation",
            "rank",
            "probe",
        ):
            yield f"monitor/stage{self.stage}/{name}", getattr(self, name)

    def causes(self, limits: Thresholds) -> list[str]:
        """Every sign of collapse, each with its figure; empty without any."""
        full = self.log_prototypes
        silent = self.information < limits.information * full
        ce = f"cross-entropy {self.cross_entropy:.3f}"
        causes = []
        if (
            abs(self.cross_entropy - full) < limits.uniform_cross_entropy * full
            and self.student_entropy > limits.uniform_entropy * full
        ):
            causes.append(f"uniform output, {ce} stands at ln K = {full:.3f}")
        if self.target_entropy > limits.uniform_entropy * full:
            causes.append(f"uniform teacher, entropy {self.target_entropy:.3f} of ln K = {full:.3f}")
        if silent and self.cross_entropy < limits.constant_cross_entropy * full:
            causes.append(f"constant output, {ce} has fallen to 0 and is the same for every input")
        elif silent and self.kl < limits.zero_kl * full:
            causes.append(f"constant output, KL divergence {self.kl:.4f} and the same for every input")
        elif silent:
            causes.append(f"the teacher's output tells {self.information:.3f} nats of the input")
        if self.deviation < limits.deviation:
            causes.append(f"constant features, standard deviation {self.deviation:.1e} of their size")
        if self.rank < limits.rank:
            causes.append(f"features of one direction, RankMe {self.rank:.2f}")
        if self.probe < limits.probe and self.best_probe >= limits.probe_known:
            known = f"once {self.best_probe:.2f}, where 0.50 is chance"
            causes.append(f"features forgot their volume, kNN probe {self.probe:.2f}, {known}")
        return causes


def feature_deviation(features: Tensor) -> float:
    """Standard deviation over samples of features (n, D), mean over D, as a fraction of their root mean square."""
    size = features.square().mean().sqrt().clamp(min=1e-12)
    return float(features.std(0, correction=0).mean() / size)


def rank_me(features: Tensor) -> float:
    """Effective rank of features (n, D): exp of the entropy of their singular values' fractions; 1 to min(n, D).

    RankMe (Garrido et al. 2023) on centred features: after a LeakyReLU their mean is the largest direction by far.
    """
    values = torch.linalg.svdvals((features - features.mean(0)).double())
    fractions = values / values.sum().clamp(min=1e-12)
    return float((-torch.xlogy(fractions, fractions).sum()).exp())


def knn_probe(first: Tensor, second: Tensor) -> float:
    """Fraction of other samples that lie farther from a sample than its own second view does; ties count half.

    Distances are cosines of features that are standardised over the samples.

    Args:
        first: (n, D) features of the first views.
        second: Of the second views.

    Returns:
        1: the nearest neighbour is always the own one; 0.5: chance.
    """
    both = torch.cat([first, second]).double()
    unit = F.normalize((both - both.mean(0)) / both.std(0, correction=0).clamp(min=1e-12), dim=-1)
    near = unit[: len(first)] @ unit[len(first) :].T
    own = near.diagonal()[:, None]
    closer = (near < own - 1e-9).sum(1) + 0.5 * ((near - own).abs() <= 1e-9).sum(1) - 0.5
    return float((closer / (len(first) - 1)).mean())


class _StageMemory(nn.Module):
    """Running means of one stage's outputs, and the features of its last volumes. Buffers, to be in checkpoints."""

    means: Tensor
    target_mean: Tensor
    first: Tensor
    second: Tensor
    seen: Tensor
    best_probe: Tensor

    def __init__(self, width: int, prototypes: int, memory: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(3))
        self.register_buffer("target_mean", torch.zeros(prototypes))
        self.register_buffer("first", torch.zeros(memory, width))
        self.register_buffer("second", torch.zeros(memory, width))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))  # steps, volumes
        self.register_buffer("best_probe", torch.zeros((), dtype=torch.float64))


class CollapseMonitor(Monitor):
    """Fed with every step's output; `check` says what has collapsed, in one line, or nothing."""

    strikes: Tensor

    def __init__(
        self, widths: dict[int, int], prototypes: int, *, memory: int = 128, thresholds: Thresholds | None = None
    ) -> None:
        """Begin with empty memories.

        Args:
            widths: Features of each trained stage.
            prototypes: K.
            memory: Volumes remembered for the monitors of features.
            thresholds: Where a reading speaks of collapse; None: the defaults.
        """
        super().__init__()
        self.thresholds = thresholds or Thresholds()
        self.prototypes = prototypes
        self.stages = nn.ModuleDict({str(s): _StageMemory(width, prototypes, memory) for s, width in widths.items()})
        self.register_buffer("strikes", torch.zeros(max(widths) + 1, dtype=torch.int64))

    def _memory(self, stage: int) -> _StageMemory:
        memory = self.stages[str(stage)]
        assert isinstance(memory, _StageMemory)
        return memory

    @property
    def suspicious(self) -> bool:
        """See Monitor."""
        return bool(self.strikes.any())

    def watch(self) -> tuple[dict[str, float], str | None]:
        """See Monitor; `monitor/stage4/rank` is one of the values."""
        readings = self.readings()
        return {key: value for reading in readings for key, value in reading.named()}, self.check(readings)

    @torch.no_grad()
    def update(self, output: SegSyncOutput) -> None:
        """Take in one step; nothing is read back from the device."""
        for stage, given in output.stages.items():
            memory = self._memory(stage)
            weight = (1 / (memory.seen[0] + 1)).clamp(min=1 - DECAY)
            memory.means.lerp_(
                torch.stack([given.cross_entropy, given.target_entropy, given.student_entropy]).float(), weight
            )
            memory.target_mean.lerp_(given.target_mean.float(), weight)
            first, second = given.features.float().chunk(2)
            memory.first.copy_(torch.cat([first, memory.first])[: len(memory.first)])
            memory.second.copy_(torch.cat([second, memory.second])[: len(memory.second)])
            memory.seen.add_(torch.tensor([1, len(first)], device=memory.seen.device))

    def readings(self) -> list[Reading]:
        """The state of every stage; none before three volumes have been seen."""
        found = []
        for stage in sorted(int(name) for name in self.stages):
            memory = self._memory(stage)
            volumes = min(int(memory.seen[1]), len(memory.first))
            if volumes < 3:
                continue
            first, second = memory.first[:volumes], memory.second[:volumes]
            probe = knn_probe(first, second)
            found.append(
                Reading(
                    stage=stage,
                    log_prototypes=math.log(self.prototypes),
                    cross_entropy=float(memory.means[0]),
                    target_entropy=float(memory.means[1]),
                    student_entropy=float(memory.means[2]),
                    mean_entropy=float(entropy(memory.target_mean[None])),
                    deviation=feature_deviation(first),
                    rank=rank_me(first),
                    probe=probe,
                    best_probe=max(probe, float(memory.best_probe)),
                )
            )
        return found

    def check(self, readings: list[Reading]) -> str | None:
        """`collapse: stage 4: …` once a stage has shown signs in `patience` checks in a row with a full memory."""
        found = []
        for reading in readings:
            memory = self._memory(reading.stage)
            full = int(memory.seen[1]) >= len(memory.first)
            causes = reading.causes(self.thresholds) if full else []
            if full:
                memory.best_probe.fill_(reading.best_probe)
            self.strikes[reading.stage] = self.strikes[reading.stage] + 1 if causes else 0
            if self.strikes[reading.stage] >= self.thresholds.patience:
                found.append(f"stage {reading.stage}: {', '.join(causes)}")
        return f"collapse: {'; '.join(found)}" if found else None

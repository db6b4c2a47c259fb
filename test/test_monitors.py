"""The monitors of collapse: each fires on the collapse that it is for, and none on features that are well."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain_cases import pretrain_config
from segsync_train.networks.xlstm_unet import Encoder, XLSTMUNetConfig
from segsync_train.ssl.monitors import (
    CollapseMonitor,
    Reading,
    SegSyncOutput,
    StageOutput,
    Thresholds,
    feature_deviation,
    knn_probe,
    rank_me,
)
from segsync_train.ssl.segsync import SegSync
from segsync_train.ssl.terms import cross_entropy, cross_view, entropy

PROTOTYPES, WIDTH, BATCH = 64, 16, 4
#: Features of both views (2n, D) and logits of student and teacher (2n, K) of one step.
Step = tuple[Tensor, Tensor, Tensor]


def healthy(generator: torch.Generator) -> Step:
    """Every volume has features of its own, two views of it nearly the same, and the outputs follow the features."""
    own = torch.randn(BATCH, WIDTH, generator=generator)
    features = torch.cat([own, own]) + 0.3 * torch.randn(2 * BATCH, WIDTH, generator=generator) + 1.0
    towards = torch.randn(WIDTH, PROTOTYPES, generator=torch.Generator().manual_seed(9))
    logits = (features - 1.0) @ towards
    return features, logits / 2, logits


def uniform(generator: torch.Generator) -> Step:
    """Every output is 1 / K: the teacher's centre or temperature has won."""
    features, student, teacher = healthy(generator)
    return features, 0.01 * student, 0.01 * teacher


def uniform_teacher(generator: torch.Generator) -> Step:
    """The teacher alone has nothing left to say."""
    features, student, teacher = healthy(generator)
    return features, student, 0.01 * teacher


def constant(generator: torch.Generator) -> Step:
    """One prototype takes every input: the cross-entropy falls to 0."""
    features, student, _ = healthy(generator)
    one = torch.zeros_like(student)
    one[:, 3] = 30.0
    return features, one, one


def constant_broad(generator: torch.Generator) -> Step:
    """The same broad output for every input: the KL divergence falls to 0, the cross-entropy does not."""
    features, student, _ = healthy(generator)
    same = torch.linspace(0, 4, PROTOTYPES).expand_as(student)
    return features, same, same


def deaf(generator: torch.Generator) -> Step:
    """The teacher's output is the same for every input, and the student has not followed it yet."""
    features, student, _ = healthy(generator)
    return features, student, torch.linspace(0, 4, PROTOTYPES).expand_as(student)


def constant_features(generator: torch.Generator) -> Step:
    features, student, teacher = healthy(generator)
    return 1.0 + 1e-4 * (features - 1.0), student, teacher


def one_direction(generator: torch.Generator) -> Step:
    features, student, teacher = healthy(generator)
    line = features[:, :1] * torch.linspace(-1, 1, WIDTH)
    return line + 0.001 * features, student, teacher


def volumes_forgotten(generator: torch.Generator) -> Step:
    """Features vary as much between the views of a volume as between volumes."""
    _, student, teacher = healthy(generator)
    return torch.randn(2 * BATCH, WIDTH, generator=generator), student, teacher


def fed(make: Callable[[torch.Generator], Step], steps: int = 60, stage: int = 2) -> CollapseMonitor:
    """A monitor that has seen so many steps of one kind."""
    monitor = CollapseMonitor({stage: WIDTH}, PROTOTYPES, memory=128)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        monitor.update(step_output(*make(generator), stage=stage))
    return monitor


def step_output(features: Tensor, student: Tensor, teacher: Tensor, *, stage: int = 2) -> SegSyncOutput:
    q = teacher.softmax(-1)
    given = StageOutput(
        features=features,
        cross_entropy=cross_view(cross_entropy, student, q),
        squared_error=torch.tensor(0.0),
        target_entropy=entropy(q),
        student_entropy=entropy(student.softmax(-1)),
        target_mean=q.mean(0),
    )
    return SegSyncOutput(torch.tensor(0.0), {}, stages={stage: given})


def checked(monitor: CollapseMonitor, times: int) -> str | None:
    for _ in range(times - 1):
        monitor.check(monitor.readings())
    return monitor.check(monitor.readings())


@pytest.mark.parametrize(
    ("planted", "cause"),
    [
        (uniform, "uniform output, cross-entropy 4.15. stands at ln K = 4.159"),
        (uniform_teacher, "uniform teacher, entropy 4.1.. of ln K = 4.159"),
        (constant, "constant output, cross-entropy 0.000 has fallen to 0 and is the same for every input"),
        (constant_broad, "constant output, KL divergence 0.0000 and the same for every input"),
        (deaf, "the teacher's output tells 0.000 nats of the input"),
        (constant_features, "constant features, standard deviation 1.0e-04 of their size"),
        (one_direction, "features of one direction, RankMe 1.0"),
    ],
)
def test_each_monitor_fires_on_its_collapse(planted: Callable[[torch.Generator], Step], cause: str) -> None:
    found = checked(fed(planted), Thresholds().patience)
    assert found is not None
    assert found.startswith("collapse: stage 2: ")
    assert re.search(cause, found), found


def test_the_probe_fires_on_features_that_forget_their_volume() -> None:
    """Not on those that never knew it: an untrained stage under strong views has yet to learn."""
    assert checked(fed(volumes_forgotten), 5) is None
    monitor = fed(healthy)
    assert checked(monitor, 5) is None
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        monitor.update(step_output(*volumes_forgotten(generator)))
    found = checked(monitor, Thresholds().patience)
    assert found is not None
    assert re.search(r"stage 2: features forgot their volume, kNN probe 0\.[45]\d, once (1\.0|0\.9)", found)


def test_none_fires_on_healthy_features() -> None:
    monitor = fed(healthy)
    (reading,) = monitor.readings()
    assert reading.causes(Thresholds()) == []
    assert checked(monitor, 10) is None


def test_none_fires_on_an_untrained_segsync() -> None:
    """Fresh weights and volumes that differ: nothing has collapsed yet, at any stage."""
    torch.manual_seed(0)
    encoder = Encoder(XLSTMUNetConfig(1, 2, (8, 16, 16), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), vil_stages=(2,)))
    config = pretrain_config(Path("unused"), head={"hidden": 64, "bottleneck": 32, "prototypes": 64})
    model = SegSync(encoder, config, config.patch_zyx, config.steps)
    monitor = CollapseMonitor(dict(enumerate((8, 16, 16))), 64, memory=32)
    for _ in range(20):
        # A blob of its own size and texture for each volume, seen with a little noise.
        coarse = torch.randn(4, 1, 4, 4, 4) * torch.rand(4, 1, 1, 1, 1)
        volumes = F.interpolate(coarse, size=(16, 16, 16), mode="trilinear")
        x1, x2 = (volumes + 0.02 * torch.randn_like(volumes) for _ in range(2))
        with torch.no_grad():
            monitor.update(model(x1, x2, 0.04))
    assert checked(monitor, 5) is None
    assert [reading.stage for reading in monitor.readings()] == [0, 1, 2]


def test_a_collapse_is_reported_after_patience_and_only_with_a_full_memory() -> None:
    """A sign that comes and goes is none; the stage is named; the memory must be full first."""
    monitor = fed(constant)
    assert [monitor.check(monitor.readings()) is None for _ in range(4)] == [True, True, False, False]
    generator = torch.Generator().manual_seed(1)
    for _ in range(400):
        monitor.update(step_output(*healthy(generator)))
    assert monitor.check(monitor.readings()) is None
    assert int(monitor.strikes[2]) == 0
    assert checked(fed(constant, steps=10), 10) is None


def test_before_anything_was_seen_there_is_nothing_to_say() -> None:
    monitor = CollapseMonitor({0: 4}, 8)
    assert monitor.readings() == []
    assert monitor.check([]) is None


def test_means_forget_the_beginning() -> None:
    """The first steps weigh evenly; later ones replace them, so that a collapse late in a run shows."""
    monitor = fed(healthy, steps=2)
    generator = torch.Generator().manual_seed(0)
    by_hand = [float(step_output(*healthy(generator)).stages[2].cross_entropy) for _ in range(2)]
    assert monitor.readings()[0].cross_entropy == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    for _ in range(600):
        monitor.update(step_output(*constant(generator)))
    assert monitor.readings()[0].cross_entropy < 1e-3


def test_a_monitor_goes_on_from_a_checkpoint() -> None:
    monitor, other = fed(healthy), CollapseMonitor({2: WIDTH}, PROTOTYPES, memory=128)
    other.load_state_dict(monitor.state_dict())
    assert other.readings() == monitor.readings()


def test_rank_me_by_hand() -> None:
    """Centred features of equal variance along r orthogonal directions have rank r."""
    for rank in (1, 2, 5):
        axes = torch.eye(8)[:rank]
        features = torch.cat([axes, -axes]) + 3.0
        assert rank_me(features) == pytest.approx(rank, rel=1e-6)
    # Singular values 3 and 1: exp of the entropy of (3/4, 1/4).
    axes = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert rank_me(axes) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-6)


def test_knn_probe_by_hand() -> None:
    own = torch.eye(6, dtype=torch.float64)
    assert knn_probe(own, own) == 1.0
    # Every second view is another volume's: all others are as far as the own one, but one that is nearer.
    assert knn_probe(own, own.roll(1, 0)) == pytest.approx((4 * 0.5 + 0) / 5)
    generator = torch.Generator().manual_seed(0)
    chance = knn_probe(torch.randn(400, 8, generator=generator), torch.randn(400, 8, generator=generator))
    assert chance == pytest.approx(0.5, abs=0.05)
    assert knn_probe(torch.ones(5, 3), torch.ones(5, 3)) == 0.5


def test_feature_deviation_by_hand() -> None:
    assert feature_deviation(torch.tensor([[3.0], [5.0]])) == pytest.approx(1 / math.sqrt(17))
    assert feature_deviation(torch.full((4, 3), 2.0)) == 0.0
    assert feature_deviation(torch.zeros(4, 3)) == 0.0


def test_kl_and_information_are_differences_of_entropies() -> None:
    reading = Reading(
        stage=0, log_prototypes=4.0, cross_entropy=3.0, target_entropy=1.0, student_entropy=2.0, mean_entropy=3.5,
        deviation=0.1, rank=5.0, probe=0.9, best_probe=0.9,
    )  # fmt: skip
    assert (reading.kl, reading.information) == (2.0, 2.5)
    assert reading.causes(Thresholds()) == []
    assert len(replace(reading, deviation=0.0, rank=1.0, probe=0.5).causes(Thresholds())) == 3

"""The self-supervised objective: every equation of the paper's Appendix C against values worked out by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pretrain_cases import pretrain_config
from segsync_train.networks.xlstm_unet import Encoder, XLSTMUNetConfig
from segsync_train.runs.devices import Processes
from segsync_train.ssl.centering import RunningCentre, SinkhornKnopp, sinkhorn
from segsync_train.ssl.config import PretrainConfig, ViewsConfig
from segsync_train.ssl.head import ProjectionHead, Standardise
from segsync_train.ssl.koleo import koleo_loss
from segsync_train.ssl.masked import draw_masks, hide
from segsync_train.ssl.schedules import teacher_momentum, teacher_temperature
from segsync_train.ssl.segsync import SegSync
from segsync_train.ssl.teacher import update_teacher
from segsync_train.ssl.terms import cross_entropy, cross_view, entropy, global_average_pool, squared_error
from segsync_train.ssl.views import Views

WIDTHS = (4, 8)
HAND = 1e-6


def segsync(**changes: Any) -> SegSync:
    """A SegSync of a few hundred weights, whose teacher differs from the student."""
    torch.manual_seed(0)
    encoder = Encoder(XLSTMUNetConfig(1, 2, WIDTHS, ((1, 1, 1), (2, 2, 2)), vil_stages=(1,)))
    config = pretrain_config(Path("unused"), **changes)
    model = SegSync(encoder, config, config.patch_zyx, config.steps)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def two_views(n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 8, 8, 8, generator=generator), torch.randn(n, 1, 8, 8, 8, generator=generator)


def windows(n: int = 3, channels: int = 2) -> torch.Tensor:
    """Windows in which every voxel of every sample has a value of its own."""
    return torch.randn(n, channels, 10, 12, 14, generator=torch.Generator().manual_seed(2))


def generators(n: int = 3, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, number]) for number in range(n)]


INTENSITIES = ("blur", "brightness", "contrast", "jitter", "solarise", "noise")


def only(**settings: Any) -> ViewsConfig:
    """Views at zoom 1 with nothing but what is named."""
    return ViewsConfig.model_validate({"zoom": (1, 1), "flip": 0, **dict.fromkeys(INTENSITIES, 0), **settings})


# Equation 1


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.996, 1.0])
def test_eq_1_the_teacher_is_the_running_mean_to_the_last_digit(momentum: float) -> None:
    """As one lerp rounds, in float32; and within the rounding of one step of the equation in float64."""
    student, teacher = nn.Linear(7, 5), nn.Linear(7, 5)
    for _ in range(3):
        with torch.no_grad():
            student.weight.mul_(1.5)
        before = [parameter.detach().clone() for parameter in teacher.parameters()]
        update_teacher(teacher, student, momentum)
        for old, new, own in zip(before, teacher.parameters(), student.parameters(), strict=True):
            assert torch.equal(new, torch.lerp(old, own, 1 - momentum))
            exact = momentum * old.double() + (1 - momentum) * own.double()
            torch.testing.assert_close(new.double(), exact, rtol=2e-7, atol=2e-7)


def test_eq_1_by_hand() -> None:
    student, teacher = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(student.weight, 2.0)
    nn.init.constant_(teacher.weight, 1.0)
    update_teacher(teacher, student, 0.75)
    assert teacher.weight.item() == 1.25  # 0.75 · 1 + 0.25 · 2


def test_eq_1_reaches_every_weight_of_the_teacher() -> None:
    model = segsync(objective={"masked": 1.0, "mask_stage": -1})
    update_teacher(model.teacher, model.student, 0.0)
    own, copied = model.student.state_dict(), model.teacher.state_dict()
    assert own.keys() == copied.keys()
    assert all(torch.equal(own[name], copied[name]) for name in own)
    assert {name.split(".")[0] for name in own} == {"encoder", "heads", "masked"}


# Equation 2


def test_eq_2_views_are_cut_from_the_same_volume_by_their_own_generator_alone() -> None:
    """Two views of a window differ; the same generator gives the same view, whatever else is in the batch."""
    views, batch = Views(ViewsConfig(), (8, 8, 8)), windows()
    x1, x2 = views(batch, generators(seed=1)), views(batch, generators(seed=2))
    assert x1.shape == x2.shape == (3, 2, 8, 8, 8)
    assert not torch.equal(x1, x2)
    alone = views(batch[1:2], generators(seed=1)[1:2])
    torch.testing.assert_close(alone, x1[1:2], rtol=1e-5, atol=1e-5)
    assert torch.equal(views(batch, generators(seed=1)), x1)


def test_eq_2_a_crop_is_a_part_of_the_window() -> None:
    """A window that tells each voxel's place: at zoom 1 a view is a straight piece of it, whatever the crop."""
    sides = (10, 12, 14)
    z, y, x = torch.meshgrid(*(torch.arange(float(side)) for side in sides), indexing="ij")
    place = torch.stack([z, y, x])[None].repeat(20, 1, 1, 1, 1)
    view = Views(only(), (8, 8, 8))(place, generators(20))
    for axis, side in enumerate(sides):
        steps = view[:, axis].diff(dim=axis + 1)
        torch.testing.assert_close(steps, torch.ones_like(steps), rtol=0, atol=1e-4)
        firsts = view[:, axis].amin((1, 2, 3))
        assert firsts.min() >= -1e-4
        assert firsts.max() <= side - 8 + 1e-4
        assert firsts.std() > 0.2  # crops move


def test_eq_2_zoom_and_flip_do_what_they_are_called() -> None:
    ramp = torch.arange(12.0)[None, None, :, None, None].repeat(30, 1, 1, 12, 12)
    magnified = Views(only(zoom=(2, 2)), (6, 6, 6))(ramp, generators(30))
    inner = magnified.diff(dim=2)[:, :, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), rtol=0, atol=1e-4)
    rotated = Views(only(flip=1), (6, 6, 6))(ramp, generators(30))
    torch.testing.assert_close(rotated.diff(dim=2), torch.full((30, 1, 5, 6, 6), -1.0), rtol=0, atol=1e-4)
    other = Views(only(flip=1, flip_axes=(1, 2)), (6, 6, 6))(ramp, generators(30))
    torch.testing.assert_close(other.diff(dim=2), torch.full((30, 1, 5, 6, 6), 1.0), rtol=0, atol=1e-4)


def test_eq_2_the_window_holds_the_largest_part() -> None:
    assert ViewsConfig(zoom=(0.8, 1.4)).window_zyx((32, 48, 32)) == (40, 60, 40)
    assert ViewsConfig(zoom=(1.2, 1.4)).window_zyx((32, 48, 32)) == (32, 48, 32)
    assert ViewsConfig(zoom=(0.8, 1.4), window=1.5).window_zyx((32, 48, 32)) == (60, 90, 60)


@pytest.mark.parametrize("name", INTENSITIES)
def test_eq_2_each_intensity_augmentation_changes_values_and_keeps_missing_channels(name: str) -> None:
    batch = windows()
    batch[:, 1] = 0  # a channel that the patient has not
    plain = Views(only(), (10, 12, 14))(batch, generators())
    torch.testing.assert_close(plain, batch, rtol=0, atol=1e-4)
    changed = Views(only(**{name: 1}), (10, 12, 14))(batch, generators())
    assert changed.isfinite().all()
    assert (changed[:, 0] - batch[:, 0]).abs().amax((1, 2, 3)).min() > 1e-3
    assert not changed[:, 1].any()


def test_eq_2_solarisation_inverts_the_bright_half() -> None:
    batch = torch.linspace(0, 1, 512).reshape(1, 1, 8, 8, 8)
    view = Views(only(solarise=1), (8, 8, 8))(batch, generators(1))
    torch.testing.assert_close(view, torch.where(batch > 0.5, 1 - batch, batch), rtol=0, atol=1e-5)


# Equations 3 to 8


def test_eqs_3_to_8_student_and_teacher_each_see_both_views() -> None:
    """The loss from the pieces: encoder, mean over voxels, standardisation, head, by stage and by hand."""
    model = segsync(objective={"squared_error": 0.5}).eval()
    x1, x2 = two_views()
    output = model(x1, x2, 0.05)
    losses: list[torch.Tensor] = []
    for stage, name in enumerate(("0", "1")):
        z, q = [], []
        for view in (x1, x2):
            scale = model.standardise[name]
            v = model.student.encoder(view)[stage].mean((2, 3, 4))
            z.append(model.student.heads[name](scale(v)) / 0.1)
            v = model.teacher.encoder(view)[stage].mean((2, 3, 4))
            q.append((model.teacher.heads[name](scale(v)) / 0.05).softmax(-1))
        ce = [-(q[1 - i] * z[i].log_softmax(-1)).sum(-1).mean() for i in range(2)]
        se = [(z[i].softmax(-1) - q[1 - i]).square().sum(-1).mean() for i in range(2)]
        losses.append((ce[0] + ce[1] + 0.5 * (se[0] + se[1])) / 2)
    assert output.loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_eqs_5_and_6_average_over_all_voxels() -> None:
    features = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 4.0]]).reshape(1, 2, 1, 2, 2)
    assert global_average_pool(features).tolist() == [[3.0, 1.0]]
    assert global_average_pool(torch.full((1, 1, 8, 8, 8), 1.001).bfloat16()).dtype is torch.float32


def test_eqs_7_and_8_the_head_gives_cosines_with_the_prototypes() -> None:
    head = ProjectionHead(3, hidden=4, bottleneck=2, prototypes=5)
    z = head(torch.randn(100, 3) * 50)
    assert z.shape == (100, 5)
    assert z.abs().max().item() <= 1 + HAND
    embedded = head.mlp(torch.ones(1, 3))[0]
    by_hand = [torch.cosine_similarity(embedded, prototype, dim=0).item() for prototype in head.prototypes]
    assert head(torch.ones(1, 3))[0].tolist() == pytest.approx(by_hand, abs=HAND)


def test_pooled_vectors_are_standardised_by_the_statistics_so_far() -> None:
    standardise = Standardise(1, 0.9, Processes())
    for value in (torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])):
        standardise.update(value)
    # Mean of 1, 3, 5, 7 is 4, their variance 5.
    assert float(standardise(torch.tensor([[9.0]]))) == pytest.approx(5 / math.sqrt(5), rel=1e-5)


# Equations 9 and 10


def test_eqs_9_and_10_by_hand() -> None:
    """Centre of (0, 0), then (0.1 · (2, 4)): softmax of what is left over τ."""
    centring = RunningCentre((2,), 0.9, Processes())
    first = centring(torch.tensor([[1.0, 3.0], [3.0, 5.0]]), 2.0)
    assert first[0].tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)], rel=1e-5)
    assert centring.centre.tolist() == pytest.approx([0.2, 0.4])
    second = centring(torch.tensor([[0.2, 1.4]]), 0.5)
    assert second[0].tolist() == pytest.approx([1 / (1 + math.exp(2)), math.exp(2) / (1 + math.exp(2))], rel=1e-5)


def test_eqs_9_and_10_what_all_samples_share_is_taken_away() -> None:
    """A prototype that wins for every sample ends at the uniform target: this is what centring is for."""
    centring = RunningCentre((4,), 0.9, Processes())
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    for _ in range(200):
        targets = centring(logits, 0.1)
    assert targets[0].tolist() == pytest.approx([0.25] * 4, abs=1e-3)


def test_eqs_9_and_10_a_low_temperature_sharpens() -> None:
    centring = RunningCentre((8,), 0.9, Processes()).eval()
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    entropies = [float(entropy(centring(logits, temperature))) for temperature in (0.01, 0.1, 1.0, 10.0)]
    assert entropies == sorted(entropies)
    assert entropies[0] < 0.3
    assert entropies[-1] == pytest.approx(math.log(8), abs=0.02)


def test_statistics_over_samples_stand_still_in_evaluation_mode() -> None:
    model = segsync().eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model(*two_views(), 0.05)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_sinkhorn_knopp_balances_rows_and_columns() -> None:
    scores = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    balanced = sinkhorn(scores, 300)
    torch.testing.assert_close(balanced.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(balanced.sum(0), torch.full((4,), 3.0, dtype=torch.float64))
    # Scaling rows and columns leaves cross-ratios: it is exp(scores) but for one factor a row and one a column.
    ratios = [t[0, 0] * t[5, 3] / (t[0, 3] * t[5, 0]) for t in (balanced, scores.exp())]
    assert float(ratios[0]) == pytest.approx(float(ratios[1]), rel=1e-9)
    torch.testing.assert_close(sinkhorn(scores, 3).sum(1), torch.ones(12, dtype=torch.float64))


def test_sinkhorn_knopp_by_hand() -> None:
    """exp = [[1, 1], [3, 1]]: balanced it is [[a, b], [b, a]], where (b / a)² = 3 · 1 / (1 · 1)."""
    balanced = sinkhorn(torch.tensor([[1.0, 1.0], [3.0, 1.0]], dtype=torch.float64).log(), 100)
    fraction = 1 / (1 + math.sqrt(3))
    assert balanced.flatten().tolist() == pytest.approx([fraction, 1 - fraction, 1 - fraction, fraction], rel=1e-9)


def test_sinkhorn_knopp_at_batch_two_balances_with_the_queue() -> None:
    """Without the queue two samples of eight prototypes would have to use all; with it each may keep its own."""
    centring = SinkhornKnopp(8, 64, Processes())
    usage = torch.zeros(8)
    for step in range(200):
        chosen = [2 * step % 8, (2 * step + 1) % 8]
        targets = centring(torch.eye(8)[chosen] + 0.5 * torch.eye(8)[0], 0.05)
        if step >= 64:
            usage += targets.sum(0)
    assert int(centring.filled) == 64
    assert targets.sum(1).tolist() == pytest.approx([1, 1])
    # Prototype 0 is preferred by every sample; balanced, all are used alike.
    assert (usage / usage.sum()).tolist() == pytest.approx([0.125] * 8, abs=0.03)


# Equations 11 and 12


def test_eq_11_each_view_learns_from_the_other() -> None:
    z = torch.tensor([[1.0], [2.0], [10.0], [20.0]])  # x1 of two volumes, then x2
    q = torch.tensor([[3.0], [4.0], [30.0], [40.0]])
    pairs: list[tuple[list[float], list[float]]] = []

    def loss(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        pairs.append((one.flatten().tolist(), other.flatten().tolist()))
        return (one * other).sum()

    assert float(cross_view(loss, z, q)) == ((1 * 30 + 2 * 40) + (10 * 3 + 20 * 4)) / 2
    assert pairs == [([1, 2], [30, 40]), ([10, 20], [3, 4])]


def test_eq_12_by_hand() -> None:
    z = torch.tensor([[0.0, math.log(3.0)]])  # softmax 1/4, 3/4
    q = torch.tensor([[0.5, 0.5]])
    assert float(cross_entropy(z, q)) == pytest.approx(-0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4), rel=1e-6)
    assert float(squared_error(z, q)) == pytest.approx(2 * 0.25**2, rel=1e-6)
    both = torch.cat([z, z]), torch.cat([q, torch.tensor([[0.25, 0.75]])])
    assert float(squared_error(*both)) == pytest.approx(0.25**2, rel=1e-6)  # a mean over the batch
    assert float(cross_entropy(z, q, 0.5)) == pytest.approx(float(cross_entropy(2 * z, q)), rel=1e-6)


def test_eq_12_is_the_kl_divergence_and_the_targets_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    z, q = torch.randn(6, 9, generator=generator), torch.randn(6, 9, generator=generator).softmax(-1)
    kl = torch.nn.functional.kl_div(z.log_softmax(-1), q, reduction="batchmean")
    assert float(cross_entropy(z, q)) == pytest.approx(float(kl + entropy(q)), rel=1e-5)


def test_no_gradient_reaches_the_teacher() -> None:
    """And all of the student's weights that the loss depends on have one."""
    model = segsync(objective={"masked": 1.0, "mask_stage": -1, "koleo": 0.1})
    masks = draw_masks((4, 4, 4), 0.3, generators(2))
    model(*two_views(), 0.05, masks).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    without = [name for name, p in model.student.named_parameters() if p.grad is None]
    assert without == []
    moved = [name for name, p in model.student.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert {"encoder.stages.0.0.first.weight", "heads.0.prototypes", "masked.prototypes"} <= set(moved)


def test_the_gradient_is_that_of_fixed_targets() -> None:
    """Stop-gradient: the loss's gradient equals that of cross-entropy to targets computed before and detached."""
    model = segsync(objective={"squared_error": 0.0}, layers="bottom").eval()
    x1, x2 = two_views()
    model(x1, x2, 0.05).loss.backward()
    found = [p.grad.clone() for p in model.student.parameters() if p.grad is not None]
    model.zero_grad()
    both = torch.cat([x1, x2])
    scale = model.standardise["1"]
    q = (
        (model.teacher.heads["1"](scale(global_average_pool(model.teacher.encoder(both)[1]))) / 0.05)
        .softmax(-1)
        .detach()
    )
    z = model.student.heads["1"](scale(global_average_pool(model.student.encoder(both)[1]))) / 0.1
    (-(torch.cat([q[2:], q[:2]]) * z.log_softmax(-1)).sum(-1).mean()).backward()
    for one, parameter in zip(found, (p for p in model.student.parameters() if p.grad is not None), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-6)


def test_layers_all_trains_every_stage_and_bottom_the_deepest_alone() -> None:
    assert list(segsync().student.heads) == ["0", "1"]
    assert list(segsync(layers="bottom").student.heads) == ["1"]


# What DINOv2 adds


def test_koleo_by_hand() -> None:
    """Four corners of a square on the unit circle: every nearest neighbour is √2 away, whatever the lengths."""
    corners = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [0.0, -5.0]])
    assert float(koleo_loss(corners)) == pytest.approx(-math.log(math.sqrt(2)), rel=1e-5)
    same = torch.ones(4, 3, requires_grad=True)
    loss = koleo_loss(same)
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_masks_hide_whole_cells() -> None:
    masks = draw_masks((2, 2, 2), 0.4, generators(3))
    assert masks.sum((1, 2, 3)).tolist() == [3, 3, 3]
    shown = hide(torch.ones(3, 1, 8, 8, 8), masks)
    assert shown.sum((1, 2, 3, 4)).tolist() == [5 * 64] * 3
    assert not shown[:, 0, :4, :4, :4][masks[:, 0, 0, 0]].any()


def test_masked_cells_alone_are_told() -> None:
    """The term depends on the teacher's features in hidden cells, and on those of no other cell."""
    model = segsync(objective={"masked": 1.0, "mask_stage": -1}).eval()
    assert model.masked is not None
    assert model.student.masked is not None
    assert model.teacher.masked is not None
    heads = (model.student.masked, model.teacher.masked)
    masks = draw_masks((4, 4, 4), 0.3, generators(2))
    student, teacher = torch.randn(2, 8, 4, 4, 4), torch.randn(2, 8, 4, 4, 4)
    loss = model.masked(student, teacher, heads, masks, 0.05).item()
    hidden = masks[:, None].expand_as(teacher)
    assert model.masked(student, torch.where(hidden, teacher, 9.0), heads, masks, 0.05).item() == loss
    assert model.masked(student, torch.where(hidden, 9.0, teacher), heads, masks, 0.05).item() != loss


def test_what_a_place_always_has_is_no_target() -> None:
    """Cells of one place look alike in every sample, as padding makes them: once centred, they are told nothing."""
    model = segsync(objective={"masked": 1.0, "mask_stage": -1})
    assert model.masked is not None
    assert model.teacher.masked is not None
    logits = model.teacher.masked(torch.randn(64, 8)).expand(2, -1, -1)
    for _ in range(2000):
        targets = model.masked.centre(logits, 0.04)
    assert float(entropy(targets.flatten(0, 1))) == pytest.approx(math.log(targets.shape[-1]), abs=1e-3)
    other = torch.stack([logits[0], logits[0].roll(1, 0)])
    assert float(entropy(model.masked.centre(other, 0.04)[1])) < 0.9 * math.log(targets.shape[-1])


def test_schedules() -> None:
    assert teacher_momentum(0.996, 0, 100) == pytest.approx(0.996)
    assert teacher_momentum(0.996, 50, 100) == pytest.approx(0.998)
    assert teacher_momentum(0.996, 100, 100) == 1.0
    temperatures = [teacher_temperature(0.04, 0.07, 30, step) for step in (0, 10, 30, 1000)]
    assert temperatures == pytest.approx([0.04, 0.05, 0.07, 0.07])
    assert teacher_temperature(0.04, 0.07, 0, 0) == 0.07


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"cross_entropy": 0, "squared_error": 0}}, "give at least one of them a weight"),
        ({"objective": {"koleo": 0.1}, "batch": 1}, "koleo compares the samples of a batch"),
        ({"objective": {"masked": 1.0, "mask_stage": -2}, "layers": "bottom"}, "set objective.mask_stage to -1"),
        ({"views": {"zoom": [1.4, 0.8]}}, r"zoom\n.*expected the smaller value first"),
        ({"views": {"zoom": [0, 1]}}, r"zoom\.0\n.*greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segsync(**changes)


def test_the_configuration_is_kept_whole() -> None:
    config = pretrain_config(Path("unused"))
    assert PretrainConfig.model_validate_json(config.model_dump_json()) == config

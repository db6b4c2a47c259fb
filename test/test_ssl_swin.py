"""SwinSSL and SwinMM against numbers worked out by hand and in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from peers_cases import draws, peer, peer_config, windows
from segsync_train.ssl.config import PretrainConfig
from segsync_train.ssl.proxies import central, nt_xent, padded, rotated, rotated_back
from segsync_train.ssl.swinmm import SwinMM, mutual_error
from segsync_train.ssl.swinssl import SwinSSL, boxes, filled

SWINSSL = peer_config({"kind": "swinssl", "mask_stage": -1, "width": 8})
SWINMM = peer_config({"kind": "swinmm", "mask_stage": -1, "width": 8})


def placed(size: tuple[int, int, int] = (6, 6, 6)) -> Tensor:
    """A volume whose every voxel has a value of its own."""
    return torch.arange(float(math.prod(size))).reshape(1, *size)


def ssl(config: PretrainConfig = SWINSSL) -> SwinSSL:
    found = peer(config)
    assert isinstance(found, SwinSSL)
    return found


def mm(config: PretrainConfig = SWINMM) -> SwinMM:
    found = peer(config)
    assert isinstance(found, SwinMM)
    return found


class Known(torch.nn.Module):
    """Heads that give what they are told to, whatever the map is."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.given = given

    def forward(self, deepest: Tensor) -> tuple[Tensor, ...]:
        return self.given


# Turns


def test_a_turn_is_about_z_and_four_of_them_are_none() -> None:
    volume = placed()
    assert torch.equal(rotated(volume, 1)[0], torch.from_numpy(np.rot90(volume[0].numpy(), 1, (1, 2)).copy()))
    assert torch.equal(rotated(volume, 4), volume)
    assert torch.equal(rotated(volume, 3, 0)[0, 2].flatten().sort().values, volume[0, 2].flatten())


@pytest.mark.parametrize("orientation", [0, 1, 2])
@pytest.mark.parametrize("rotations", [0, 1, 2, 3])
def test_what_was_turned_is_turned_back(orientation: int, rotations: int) -> None:
    volume = placed()
    view = rotated(volume, rotations, orientation)
    assert torch.equal(rotated_back(view, rotations, orientation), volume)
    front = volume.movedim(1 + orientation, 1)[0, 0]  # the first slice along Z, Y or X
    assert torch.equal(view[0, 0].flatten().sort().values, front.flatten().sort().values)


def test_the_middle_is_put_back_where_it_was() -> None:
    volume = placed((6, 8, 7))
    middle = central(volume, (6, 4, 4))
    assert torch.equal(middle, volume[:, :, 2:6, 1:5])
    again = padded(middle, (6, 8, 7))
    assert torch.equal(again[:, :, 2:6, 1:5], middle)
    assert again.sum() == middle.sum()


# Contrast


def test_nt_xent_by_hand() -> None:
    """Two volumes whose views are the same unit vectors, at a right angle to each other's, t = 1/2: of the three others
    one is alike, e² / (e² + 1 + 1).
    """
    one = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert nt_xent([one, 5 * one], 0.5).item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 2)), rel=1e-6)
    swapped = nt_xent([one, one.flip(0)], 0.5).item()
    assert swapped == pytest.approx(-math.log(1 / (math.e**2 + 2)), rel=1e-6)


def test_nt_xent_is_simclrs_in_numpy() -> None:
    vectors = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    unit = vectors.flatten(0, 1).numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    losses = []
    for i in range(12):
        others = [k for k in range(12) if k != i]
        total = sum(np.exp(unit[i] @ unit[k] / 0.3) for k in others)
        losses += [-np.log(np.exp(unit[i] @ unit[j] / 0.3) / total) for j in others if i % 4 == j % 4]
    assert len(losses) == 24
    assert nt_xent(list(vectors), 0.3).item() == pytest.approx(np.mean(losses), rel=1e-5)


# SwinSSL


def test_swinssl_views_are_turned_as_their_answers_say_and_masked_each_in_its_own_way() -> None:
    batch = 1 + placed((8, 8, 8)).expand(2, 1, 8, 8, 8)
    images, shown, rotations = ssl().inputs(batch, draws(SWINSSL), 0)
    for image, turn in zip(images, rotations.tolist(), strict=True):
        assert torch.equal(image, rotated(batch[0], turn))
    hidden = shown == 0
    assert hidden.sum((1, 2, 3, 4)).tolist() == [19 * 8] * 4  # 30 % of 64 cells of 2³ voxels
    assert len({mask.numpy().tobytes() for mask in hidden}) == 4
    assert torch.equal(shown, images * ~hidden)
    answers = torch.cat([ssl().inputs(batch, draws(SWINSSL, number), 0)[2] for number in range(20)])
    assert set(answers.tolist()) == {0, 1, 2, 3}


def test_swinssl_turns_patches_that_are_not_square() -> None:
    config = peer_config({"kind": "swinssl", "mask_stage": -1, "width": 8}, patch_zyx=[8, 12, 8])
    batch = windows(config)
    assert batch.shape[2:] == (8, 12, 12)
    images, shown, rotations = ssl(config).inputs(batch, draws(config), 0)
    assert images.shape == (4, 1, 8, 12, 8)
    assert torch.equal(images[0], rotated(batch[0], int(rotations[0]))[..., 2:10])
    assert ssl(config)(images, shown, rotations).loss.isfinite()


def test_swinssl_by_hand() -> None:
    """Predictions off by 2 in hidden voxels (19 of 64 cells) and by 1 elsewhere, undecided rotations, vectors at right
    angles.
    """
    pretext = ssl()
    images, shown, rotations = pretext.inputs(windows(SWINSSL), draws(SWINSSL), 0)
    hidden = shown == 0
    vectors = torch.eye(4)[[0, 1, 0, 1]]
    pretext.heads = Known(images + 1 - 3 * hidden.float(), torch.zeros(4, 4), vectors)  # type: ignore[assignment]
    output = pretext(images, shown, rotations)
    assert output.terms["inpainting"].item() == pytest.approx((19 * 2 + 45) / 64, rel=1e-5)
    assert output.terms["rotation"].item() == pytest.approx(math.log(4), rel=1e-5)
    assert output.terms["contrast"].item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 2)), rel=1e-5)
    assert output.loss.item() == pytest.approx(sum(term.item() for term in output.terms.values()), rel=1e-6)


def answers_of(rotations: Tensor) -> Tensor:
    """Logits that are sure of the right rotations."""
    return 50 * torch.nn.functional.one_hot(rotations.flatten(), 4).float()


def test_a_perfect_solution_of_swinssl_has_the_least_loss() -> None:
    """No error of inpainting and rotation; NT-Xent at its least for two volumes, opposite vectors."""
    pretext = ssl()
    images, shown, rotations = pretext.inputs(windows(SWINSSL), draws(SWINSSL), 0)
    vectors = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    pretext.heads = Known(images, answers_of(rotations), vectors)  # type: ignore[assignment]
    least = math.log(1 + 2 * math.exp(-4))
    assert pretext(images, shown, rotations).loss.item() == pytest.approx(least, rel=1e-4)


def test_released_boxes_hold_noise_of_the_views_range_and_other_views() -> None:
    """Constant views of 1 to 4 and a gradient: what changed is noise in the range, or another view's very values."""
    images = torch.arange(1.0, 5).reshape(4, 1, 1, 1, 1).expand(4, 1, 20, 20, 20).clone()
    images[:, :, 0, 0, 0] -= 0.5  # a range of a half
    shown = filled(images, [np.random.default_rng([7, number]) for number in range(4)])
    copied = torch.zeros(4, dtype=torch.bool)
    for number, (image, own) in enumerate(zip(images, shown, strict=True)):
        changed = own != image
        assert 0 < changed.float().mean() < 0.6
        beyond = (own < image.min()) | (own > image.max())
        for value in own[beyond]:
            assert value in images, "no noise outside the range: another view's value"
        copied[number] = bool(beyond.any())
    assert copied.any()
    assert torch.equal(images[:, :, 5], images[:, :, 6]), "the views themselves stay"


def test_released_boxes_are_of_5_to_25_percent_of_each_side_up_to_30_percent_of_the_voxels() -> None:
    totals = []
    for seed in range(200):
        sizes = [[part.stop - part.start for part in box] for box in boxes((20, 40, 40), np.random.default_rng(seed))]
        assert all(1 <= z <= 5 and 1 <= y <= 10 and 1 <= x <= 10 for z, y, x in sizes)
        totals.append(sum(z * y * x for z, y, x in sizes) / 32000)
    assert max(totals) < 0.3 + 500 / 32000, "no box after the one that reaches what was drawn"
    assert np.mean(totals) == pytest.approx(0.15, abs=0.02), "uniform from 0 to 0.3"


def test_the_encoder_of_swinssl_sees_what_is_shown() -> None:
    pretext: Any = peer(SWINSSL)
    seen: list[Tensor] = []
    pretext.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    images, shown, rotations = pretext.inputs(windows(SWINSSL), draws(SWINSSL), 0)
    pretext(images, shown, rotations)
    assert torch.equal(seen[0], shown)


def test_hidden_voxels_never_reach_the_encoder_of_swinmm() -> None:
    pretext: Any = peer(SWINMM)
    seen: list[Tensor] = []
    pretext.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    images, hidden, sides = pretext.inputs(windows(SWINMM), draws(SWINMM), 0)
    pretext(images, hidden, sides)
    assert not seen[0][hidden[:, None]].any()
    assert torch.equal(seen[0][~hidden[:, None]], images[~hidden[:, None]])


# SwinMM


def test_swinmm_sees_every_volume_from_different_sides() -> None:
    batch = placed((8, 8, 8)).expand(2, 1, 8, 8, 8)
    images, hidden, sides = mm().inputs(batch, draws(SWINMM), 0)
    assert sides.shape == (2, 2, 2)
    assert (sides[0, :, 0] != sides[1, :, 0]).all()
    seen = sides.flatten(0, 1).tolist()
    for image, (orientation, rotations) in zip(images, seen, strict=True):
        assert torch.equal(image, rotated(batch[0], rotations, orientation))
    # Both views of a volume miss the same half of its 64 cells of 2³ voxels.
    pairs = zip(hidden, seen, strict=True)
    masks = [rotated_back(own[None], rotations, orientation) for own, (orientation, rotations) in pairs]
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[0], masks[1])
    for mask in masks:
        filled = torch.nn.functional.avg_pool3d(mask.float(), 2)
        assert set(filled.flatten().tolist()) == {0, 1}
        assert filled.sum() == 32


def test_the_mutual_error_by_hand() -> None:
    """Predictions of one volume that agree have none, whatever the sides; a constant difference of 3 gives 9. What is
    not hidden does not count.
    """
    truth = torch.randn(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    sides = torch.tensor([[[0, 1], [2, 3]], [[1, 2], [0, 0]]])

    def seen_from_sides(volumes: Tensor) -> Tensor:
        return torch.stack([
            torch.stack([rotated(volume, count, side) for volume, (side, count) in zip(volumes, seen, strict=True)])
            for seen in sides.tolist()
        ])  # fmt: skip

    views, hidden = seen_from_sides(truth), seen_from_sides(truth > 0.5)[:, :, 0]
    assert mutual_error(views, hidden, sides, (6, 6, 6)).item() == 0
    apart = torch.stack([views[0], views[1] + 3])
    assert mutual_error(apart, hidden, sides, (6, 6, 6)).item() == pytest.approx(9, rel=1e-5)
    apart = torch.where(hidden[:, :, None], views, torch.randn_like(views))
    assert mutual_error(apart, hidden, sides, (6, 6, 6)).item() == 0


def test_the_mutual_error_counts_what_views_share() -> None:
    """Patches of 4 × 8 × 8 in a cube of 8: from above and from the front they share 4 × 4 × 8 voxels, all hidden."""
    sides = torch.tensor([[[0, 0]], [[1, 0]]])
    window = placed((8, 8, 8))
    views = torch.stack([central(rotated(window, 0, side), (4, 8, 8))[None] for side in (0, 1)])
    hidden = torch.ones(2, 1, 4, 8, 8, dtype=torch.bool)
    assert mutual_error(views, hidden, sides, (8, 8, 8)).item() == 0
    views[1, :, :, 0] += 1  # one of its four slices: a quarter of what they share
    assert mutual_error(views, hidden, sides, (8, 8, 8)).item() == pytest.approx(1 / 4)
    assert mutual_error(views, ~hidden, sides, (8, 8, 8)).item() == 0


def test_a_perfect_solution_of_swinmm_has_the_least_loss() -> None:
    pretext = mm()
    images, masks, sides = pretext.inputs(windows(SWINMM), draws(SWINMM), 0)
    vectors = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    pretext.heads = Known(images, answers_of(sides[..., 1]), vectors)  # type: ignore[assignment]
    assert pretext(images, masks, sides).loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-4)), rel=1e-4)
    pretext.heads = Known(images + 2, answers_of(sides[..., 1] + 1 - 4 * (sides[..., 1] == 3)), vectors)  # type: ignore[assignment]
    output = pretext(images, masks, sides)
    assert output.terms["reconstruction"].item() == pytest.approx(4, rel=1e-4)
    assert output.terms["rotation"].item() == pytest.approx(50, rel=1e-4)
    assert output.terms["mutual"].item() == pytest.approx(0, abs=1e-8)


def test_three_views_and_patches_that_are_no_cubes() -> None:
    config = peer_config({"kind": "swinmm", "mask_stage": -1, "width": 8, "views": 3}, patch_zyx=[8, 12, 8])
    pretext = mm(config)
    images, masks, sides = pretext.inputs(windows(config), draws(config), 0)
    assert images.shape == (6, 1, 8, 12, 8)
    assert sides[..., 0].sort(0).values.tolist() == [[0, 0], [1, 1], [2, 2]]
    output = pretext(images, masks, sides)
    output.loss.backward()
    assert output.loss.isfinite()

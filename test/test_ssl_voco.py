"""VoCo against numbers worked out by hand and in NumPy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from peers_cases import draws, peer, peer_config, windows
from segsync_train.ssl.voco import (
    VoCo,
    agreement,
    mirrored,
    overlaps,
    prediction_loss,
    projector,
    regularisation_loss,
    released_loss,
    released_regularisation,
)

SETTINGS = {"kind": "voco", "bases_zyx": [1, 2, 3], "crops": 2, "mirror": 0, "width": 8}
CONFIG = peer_config(SETTINGS)


def voco() -> VoCo:
    found = peer(CONFIG)
    assert isinstance(found, VoCo)
    return found


def test_fractions_by_hand() -> None:
    """A crop of 8³ at (0, 2, 12) of 1 × 2 × 3 bases: 3/4 and 1/4 in Y, half in the second and the third in X."""
    found = overlaps(torch.tensor([0, 2, 12]), (1, 2, 3), (8, 8, 8))
    assert found.tolist() == [0, 3 / 8, 3 / 8, 0, 1 / 8, 1 / 8]
    assert overlaps(torch.tensor([0, 8, 0]), (1, 2, 3), (8, 8, 8)).tolist() == [0, 0, 0, 1, 0, 0]


def test_fractions_are_those_of_counted_voxels() -> None:
    """Every random crop: the voxels that lie in each base, counted; and they add up to 1."""
    pretext = voco()
    _, _, fractions = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    torch.testing.assert_close(fractions.sum(-1), torch.ones(2, 2))
    number = torch.arange(6.0).reshape(1, 2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    _, crops, _ = pretext.inputs(number.expand(2, 1, -1, -1, -1), draws(CONFIG), 0)
    counted = torch.stack([(crops == base).float().mean((2, 3, 4, 5)) for base in range(6)], dim=-1)
    torch.testing.assert_close(fractions, counted)


def test_base_crops_tile_the_window() -> None:
    window = torch.arange(8 * 16 * 24.0).reshape(1, 1, 8, 16, 24).expand(2, -1, -1, -1, -1)
    bases, crops, _ = voco().inputs(window, draws(CONFIG), 0)
    assert bases.shape == (2, 6, 1, 8, 8, 8)
    assert sorted(bases[0].flatten().tolist()) == window[0].flatten().tolist()
    assert torch.equal(bases[0, 4, 0], window[0, 0, :, 8:, 8:16])  # y 1, x 1 of 2 × 3
    assert crops.shape == (2, 2, 1, 8, 8, 8)


def test_crops_are_mirrored_each_in_its_own_way() -> None:
    """By hand: one along Y, one along Z and X, one not at all; and with the probability asked for."""
    crops = torch.arange(24.0).reshape(3, 1, 2, 2, 2)
    axes = np.array([[False, True, False], [True, False, True], [False] * 3])
    found = mirrored(crops, axes)
    assert found[0].flatten().tolist() == [2, 3, 0, 1, 6, 7, 4, 5]
    assert found[1].flatten().tolist() == [13, 12, 15, 14, 9, 8, 11, 10]
    assert torch.equal(found[2], crops[2])
    always = peer_config({**SETTINGS, "mirror": 1})
    both = [peer(config).inputs(windows(config), draws(config), 0) for config in (CONFIG, always)]
    for plain, mirror in zip(*both, strict=True):
        assert torch.equal(mirror, plain.flip((3, 4, 5)) if plain.ndim == 6 else plain)


def test_a_zoom_cuts_smaller_crops() -> None:
    config = peer_config({**SETTINGS, "zoom": 2})
    assert config.window_zyx == (4, 8, 12)
    bases, crops, _ = peer(config).inputs(windows(config), draws(config), 0)
    assert bases.shape == (2, 6, 1, 8, 8, 8)
    assert crops.shape[-3:] == (8, 8, 8)


def test_the_prediction_loss_by_hand() -> None:
    """cos = (1, 0), fractions = (3/4, 1/4): d = 1/4 for both, −log(3/4). An opposite vector is unlike, no worse."""
    bases, fractions = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]]), torch.tensor([[[0.75, 0.25]]])
    found = prediction_loss(torch.tensor([[[3.0, 0.0]]]), bases, fractions).item()
    assert found == pytest.approx(-math.log(0.75), rel=1e-5)
    opposite = prediction_loss(torch.tensor([[[3.0, -0.0], [0.0, -1.0]]]), bases, fractions.expand(1, 2, 2))
    both = [-math.log(0.75), -(math.log(0.25) + math.log(0.75)) / 2]
    assert opposite.item() == pytest.approx(sum(both) / 2, rel=1e-5)


def test_the_prediction_moves_crops_and_the_regularisation_bases() -> None:
    """A gradient even where a crop lies exactly to a base that it does not overlap."""
    bases = torch.tensor([[[1.0, 0.2], [0.1, 1.0]]], requires_grad=True)
    crop = torch.tensor([[[1.0, 0.201]]], requires_grad=True)
    prediction_loss(crop, bases, torch.tensor([[[0.0, 1.0]]])).backward()  # type: ignore[no-untyped-call]
    assert bases.grad is None
    assert crop.grad is not None
    assert crop.grad.abs().max() > 1e-3
    regularisation_loss(bases).backward()  # type: ignore[no-untyped-call]
    assert bases.grad is not None
    assert bases.grad.any()


def test_the_projector_tells_apart_what_is_nearly_alike() -> None:
    """Features that differ by a thousandth, as an untrained encoder's do: without normalisation all cosines are 1."""
    torch.manual_seed(0)
    features = 1 + 0.001 * torch.randn(12, 16)
    assert torch.nn.functional.cosine_similarity(features[:1], features[1:]).min() > 0.999
    with torch.no_grad():
        vectors = projector(16, 64)(features)
    assert torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:]).max() < 0.9


def test_the_regularisation_by_hand() -> None:
    """cos of the pairs are 0, 1/√2 and −1/√2."""
    bases = torch.tensor([[[1.0, 0.0], [0.0, 4.0], [1.0, -1.0]]])
    assert regularisation_loss(bases).item() == pytest.approx(2 / 3 * math.sqrt(0.5))


def test_a_perfect_solution_has_no_loss() -> None:
    """Orthogonal bases, and a crop that lies to each as it overlaps with it."""
    fractions = torch.tensor([[[0.5, 0.3, 0.2, 0.0]]])
    rest = math.sqrt(1 - float(fractions.square().sum()))
    crop = torch.cat([fractions, torch.tensor([[[rest]]])], dim=-1)
    bases = torch.eye(5)[None, :4] * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    assert prediction_loss(7 * crop, bases, fractions).item() == pytest.approx(0, abs=1e-6)
    assert regularisation_loss(bases).item() == 0
    assert prediction_loss(7 * crop.flip(-1), bases, fractions).item() > 0.1


def test_the_loss_is_the_papers() -> None:
    """From the pooled maps of both stages to the loss in NumPy, volume by volume."""
    pretext = voco()
    bases, crops, fractions = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    output = pretext(bases, crops, fractions)
    total = []
    with torch.no_grad():
        maps = pretext.student.encoder(torch.cat([bases, crops], dim=1).flatten(0, 1))
        pooled = torch.cat([own.mean((2, 3, 4)) for own in maps], dim=1)
        assert pooled.shape == (2 * 8, 4 + 8)
        vectors = F.normalize(pretext.student.projector(pooled), dim=-1).reshape(2, 8, -1).numpy()
        for q, k, y in zip(vectors[:, :6], vectors[:, 6:], fractions.numpy(), strict=True):
            distance = np.abs(y - np.maximum(0, k @ q.T))
            pairs = [abs(q[i] @ q[j]) for i in range(6) for j in range(i)]
            total.append(-np.log(1 - distance + 1e-6).mean() + np.mean(pairs))
    assert output.loss.item() == pytest.approx(np.mean(total), rel=1e-3)
    assert output.loss.item() == pytest.approx(sum(term.item() for term in output.terms.values()), rel=1e-6)


def test_the_released_loss_by_hand() -> None:
    """y = (3/4, 1/4, 0, 0), s = (1/2, 1/4, 1/2, 0): −(3/4 log 3/4 + 1/4 log 1) / 1, and (1/4 + 0) / 2 where apart."""
    fractions, similarity = torch.tensor([[[0.75, 0.25, 0, 0]]]), torch.tensor([[[0.5, 0.25, 0.5, 0]]])
    wanted = -0.75 * math.log(0.75) + 0.125
    assert released_loss(similarity, fractions).item() == pytest.approx(wanted, rel=1e-5)
    # The bases' squares of cosines, those below 0 left out: 0, 1/2 and (−1/√2) → 0.
    bases = torch.tensor([[[1.0, 0.0], [0.0, 4.0], [1.0, -1.0]]])
    assert released_regularisation(bases).item() == pytest.approx(0.5 / 3)


def test_students_and_teachers_agree_each_with_the_others_bases() -> None:
    """By hand: k · q' = 1 and 0, k' · q = 0 and 1 (an opposite one counts as 0)."""
    crops, bases = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[-1.0, 0.0], [0.0, 3.0]]])
    found = agreement(crops, bases, torch.tensor([[[0.0, 5.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    assert found.tolist() == [[[0.5, 0.5]]]


def test_as_released_a_teacher_follows_and_the_students_encoder_is_kept() -> None:
    config = peer_config({**SETTINGS, "released": True})
    pretext = peer(config)
    assert isinstance(pretext, VoCo)
    assert pretext.teacher is not None
    before = {name: p.clone() for name, p in pretext.teacher.named_parameters()}
    output = pretext(*pretext.inputs(windows(config), draws(config), 0))
    output.loss.backward()
    assert all(p.grad is None for p in pretext.teacher.parameters())
    torch.optim.SGD(pretext.trained.parameters(), 0.1).step()
    pretext.after_step(0)
    student = dict(pretext.student.named_parameters())
    for name, parameter in pretext.teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * student[name])
    assert pretext.get_submodule(pretext.kept) is pretext.student.encoder


def test_one_base_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="bases_zyx: expected two base crops or more, found one"):
        peer_config({"kind": "voco", "bases_zyx": [1, 1, 1]})

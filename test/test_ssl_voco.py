"""VoCo against numbers worked out by hand and in NumPy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from peers_cases import draws, peer, peer_config, windows
from segsync_train.ssl.voco import VoCo, overlaps, prediction_loss, regularisation_loss
from segsync_train.ssl.volumes import window_zyx

SETTINGS = {"kind": "voco", "bases_zyx": [1, 2, 3], "crops": 2, "width": 8}
CONFIG = peer_config(SETTINGS)


def voco() -> VoCo:
    found = peer(CONFIG)
    assert isinstance(found, VoCo)
    return found


def test_shares_by_hand() -> None:
    """A crop of 8³ at (0, 2, 12) of 1 × 2 × 3 bases: 3/4 and 1/4 in Y, half in the second and the third in X."""
    found = overlaps(torch.tensor([0, 2, 12]), (1, 2, 3), (8, 8, 8))
    assert found.tolist() == [0, 3 / 8, 3 / 8, 0, 1 / 8, 1 / 8]
    assert overlaps(torch.tensor([0, 8, 0]), (1, 2, 3), (8, 8, 8)).tolist() == [0, 0, 0, 1, 0, 0]


def test_shares_are_those_of_counted_voxels() -> None:
    """Every random crop: the voxels that lie in each base, counted; and they add up to 1."""
    pretext = voco()
    _, _, shares = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 2))
    number = torch.arange(6.0).reshape(1, 2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    _, crops, _ = pretext.inputs(number.expand(2, 1, -1, -1, -1), draws(CONFIG), 0)
    counted = torch.stack([(crops == base).float().mean((2, 3, 4, 5)) for base in range(6)], dim=-1)
    torch.testing.assert_close(shares, counted)


def test_base_crops_tile_the_window() -> None:
    window = torch.arange(8 * 16 * 24.0).reshape(1, 1, 8, 16, 24).expand(2, -1, -1, -1, -1)
    bases, crops, _ = voco().inputs(window, draws(CONFIG), 0)
    assert bases.shape == (2, 6, 1, 8, 8, 8)
    assert sorted(bases[0].flatten().tolist()) == window[0].flatten().tolist()
    assert torch.equal(bases[0, 4, 0], window[0, 0, :, 8:, 8:16])  # y 1, x 1 of 2 × 3
    assert crops.shape == (2, 2, 1, 8, 8, 8)


def test_a_zoom_cuts_smaller_crops() -> None:
    config = peer_config({**SETTINGS, "zoom": 2})
    assert window_zyx(config) == (4, 8, 12)
    bases, crops, _ = peer(config).inputs(windows(config), draws(config), 0)
    assert bases.shape == (2, 6, 1, 8, 8, 8)
    assert crops.shape[-3:] == (8, 8, 8)


def test_the_prediction_loss_by_hand() -> None:
    """cos = (1, 0), shares = (3/4, 1/4): d = 1/4 for both, −log(3/4). An opposite vector counts as unlike, no worse."""
    bases, shares = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]]), torch.tensor([[[0.75, 0.25]]])
    assert prediction_loss(torch.tensor([[[3.0, 0.0]]]), bases, shares).item() == pytest.approx(-math.log(0.75))
    opposite = prediction_loss(torch.tensor([[[3.0, -0.0], [0.0, -1.0]]]), bases, shares.expand(1, 2, 2))
    both = [-math.log(0.75), -(math.log(0.25) + math.log(0.75)) / 2]
    assert opposite.item() == pytest.approx(sum(both) / 2)


def test_the_regularisation_by_hand() -> None:
    """cos of the pairs are 0, 1/√2 and −1/√2."""
    bases = torch.tensor([[[1.0, 0.0], [0.0, 4.0], [1.0, -1.0]]])
    assert regularisation_loss(bases).item() == pytest.approx(2 / 3 * math.sqrt(0.5))


def test_a_perfect_solution_has_no_loss() -> None:
    """Orthogonal bases, and a crop that lies to each as it overlaps with it."""
    shares = torch.tensor([[[0.5, 0.3, 0.2, 0.0]]])
    rest = math.sqrt(1 - float(shares.square().sum()))
    crop = torch.cat([shares, torch.tensor([[[rest]]])], dim=-1)
    bases = torch.eye(5)[None, :4] * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    assert prediction_loss(7 * crop, bases, shares).item() == pytest.approx(0, abs=1e-6)
    assert regularisation_loss(bases).item() == 0
    assert prediction_loss(7 * crop.flip(-1), bases, shares).item() > 0.1


def test_the_loss_is_the_papers() -> None:
    """From the vectors to the loss in NumPy, crop by crop."""
    pretext = voco()
    bases, crops, shares = pretext.inputs(windows(CONFIG), draws(CONFIG), 0)
    output = pretext(bases, crops, shares)
    total = []
    with torch.no_grad():
        for own, random, y in zip(bases, crops, shares.numpy(), strict=True):
            q, k = (
                F.normalize(pretext.projector(pretext.encoder(part)[-1].mean((2, 3, 4))), dim=-1).numpy()
                for part in (own, random)
            )
            distance = np.abs(y - np.maximum(0, k @ q.T))
            pairs = [abs(q[i] @ q[j]) for i in range(6) for j in range(i)]
            total.append(-np.log(1 - distance).mean() + np.mean(pairs))
    assert output.loss.item() == pytest.approx(np.mean(total), rel=1e-3)
    assert output.loss.item() == pytest.approx(sum(term.item() for term in output.terms.values()), rel=1e-6)


def test_one_base_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="bases_zyx: expected two base crops or more, found one"):
        peer_config({"kind": "voco", "bases_zyx": [1, 1, 1]})

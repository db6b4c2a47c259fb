"""Patches: cut where they should be, filled as inference fills windows, the same however many processes cut them."""

import numpy as np
import pytest
import torch

from segsync.arrays import SizeZYX
from segsync_train.config.run import AugmentationConfig
from segsync_train.data.augment import Augmentation
from segsync_train.data.cases import LabelledCase, build_case
from segsync_train.data.patches import FolderSource, PatchDataset, cut
from training_cases import NO_AUGMENTATION

PLAIN = AugmentationConfig(**NO_AUGMENTATION, rotate_zoom=0)


def case_of(size: SizeZYX, name: str = "case", seed: int = 0) -> LabelledCase:
    """Every voxel tells where it lies: its Z, Y and X are the channels, its label follows from them."""
    index = np.indices(size)
    tissue = np.random.default_rng(seed).random(size) > 0.5
    return build_case(name, index.astype(np.float32), (index.sum(0) % 3).astype(np.uint8), tissue, (1, 1, 1))


@pytest.mark.parametrize("centre", [(9, 8, 6), (0, 0, 0), (19, 15, 11)], ids=["inside", "first", "last"])
def test_a_window_lies_about_its_voxel_and_inside_the_image(centre: tuple[int, int, int]) -> None:
    case, window = case_of((20, 16, 12)), (8, 6, 4)
    firsts = []
    for seed in range(60):
        image, label = cut(case, centre, window, np.random.default_rng(seed))
        first = image[:, 0, 0, 0]
        assert np.array_equal(image, np.indices(window) + first[:, None, None, None])
        assert np.array_equal(label, image.sum(0) % 3)
        firsts.append(first)
    farthest = np.subtract(case.label.shape, window)
    nearest = np.array(centre) - np.array(window) // 2
    jitter = np.array(window) // 4
    assert np.array_equal(np.min(firsts, axis=0), np.clip(nearest - jitter, 0, farthest))
    assert np.array_equal(np.max(firsts, axis=0), np.clip(nearest + jitter, 0, farthest))


def test_what_lies_outside_a_small_image_is_each_channels_smallest_value() -> None:
    """The whole image is there, at any place of the window; along X, where it is longer, a part."""
    case, window = case_of((5, 8, 12)), (8, 8, 4)
    lowest = np.array(case.lowest) - (0, 1, 2)
    case = build_case("low", case.image - np.reshape((0, 1, 2), (3, 1, 1, 1)), case.label, case.tissue, (1, 1, 1))
    places = set()
    for seed in range(40):
        image, label = cut(case, (2, 4, 6), window, np.random.default_rng(seed))
        assert image.shape == (3, *window)
        inside = np.flatnonzero((image[2] >= 0).any(axis=(1, 2)))
        first = int(inside[0])
        assert np.array_equal(inside, range(first, first + 5))
        part = slice(int(image[2, first, 0, 0]) + 2, int(image[2, first, 0, 0]) + 6)
        expected, expected_label = np.empty_like(image), np.zeros_like(label)
        expected[:] = lowest.reshape(3, 1, 1, 1)
        expected[:, first : first + 5] = case.image[..., part]
        expected_label[first : first + 5] = case.label[..., part]
        assert np.array_equal(image, expected)
        assert np.array_equal(label, expected_label)
        places.add(first)
    assert places == {0, 1, 2, 3}


def test_every_case_comes_once_a_round_in_another_order_each() -> None:
    source = FolderSource([case_of((2, 2, 2), str(number)) for number in range(5)], seed=3)
    names = [source.case(step, place, 2).name for step in range(10) for place in range(2)]
    rounds = [names[first : first + 5] for first in range(0, 20, 5)]
    assert all(sorted(one) == list("01234") for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_two_processes_cut_what_one_of_twice_the_batch_would() -> None:
    source = FolderSource([case_of((16, 16, 16), str(number)) for number in range(3)], seed=0)
    rotated = AugmentationConfig(rotate_zoom=0.5)

    def batch_of(batch: int, rank: int, processes: int) -> dict[str, torch.Tensor]:
        dataset = PatchDataset(
            source, Augmentation(rotated, (4, 4, 4), (2,)), batch=batch, steps=9, foreground=0.5, seed=1,
            rank=rank, processes=processes, regions=True,
        )  # fmt: skip
        found = dataset[7]
        assert isinstance(found, dict)
        return found

    whole, halves = batch_of(4, 0, 1), [batch_of(2, rank, 2) for rank in range(2)]
    for name, expected in whole.items():
        assert torch.equal(torch.cat([half[name] for half in halves]), expected)
    images = whole["image"]
    assert all(not torch.equal(images[i], images[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_as_many_patches_as_asked_for_are_about_a_labelled_voxel(fraction: float) -> None:
    """A lesion in one corner of the image, the only tissue in the other."""
    label = np.zeros((32, 32, 32), dtype=np.uint8)
    label[2:5, 2:5, 2:5] = 1
    tissue = np.zeros(label.shape, dtype=bool)
    tissue[26:30, 26:30, 26:30] = True
    case = build_case("corner", np.stack([label, tissue]).astype(np.float32), label, tissue, (1, 1, 1))
    dataset = PatchDataset(
        FolderSource([case], 0), Augmentation(PLAIN, (8, 8, 8), ()), batch=1, steps=1, foreground=fraction, seed=0
    )
    rng = np.random.default_rng(0)
    patches = [dataset.sample(case, rng) for _ in range(100)]
    labelled = [bool(found.any()) for _, found in patches]
    assert all(found != bool(image[1].any()) for found, (image, _) in zip(labelled, patches, strict=True))
    # Three standard deviations of a binomial fraction.
    assert abs(np.mean(labelled) - fraction) <= 3 * np.sqrt(fraction * (1 - fraction) / 100)


def test_every_label_and_every_lesion_of_it_is_drawn_alike() -> None:
    """Label 1 in one voxel and in 1000, label 2 in one lesion: a quarter, a quarter and a half of the points."""
    label = np.zeros((24, 24, 24), dtype=np.uint8)
    label[1, 1, 1] = 1
    label[4:14, 4:14, 4:14] = 1
    label[18:21, 18:21, 18:21] = 2
    points = build_case("c", label[None].astype(np.float32), label, label > 0, (1, 1, 1)).foreground
    drawn = label[tuple(points.T)]
    assert drawn.all()
    assert np.mean(drawn == 2) == 0.5
    # Three standard deviations.
    assert abs(np.mean((points == 1).all(1)) - 0.25) < 3 * 0.5 * np.sqrt(0.25 / (len(points) / 2))
    assert len(np.unique(points, axis=0)) > 300


def test_cutting_leaves_the_case_as_it_is() -> None:
    """A run's cases are read again and again: what augmentation does to a patch must not stay in them."""
    case = case_of((8, 8, 8))
    image, label = cut(case, (4, 4, 4), (8, 8, 8), np.random.default_rng(0))
    image += 1
    label += 1
    fresh = case_of((8, 8, 8))
    assert np.array_equal(case.image, fresh.image)
    assert np.array_equal(case.label, fresh.label)

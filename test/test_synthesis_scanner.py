"""What a scanner does to a drawn head: slices, blur, noise and bending, by second libraries and by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from segsync_train.config.synthesis import AcquisitionConfig
from segsync_train.synthesis import scanner
from segsync_train.synthesis.fields import (
    Draw,
    box_matrix,
    gaussian,
    linear_matrix,
    sample,
    shift_along,
    smoothstep,
)
from segsync_train.synthesis.scene import Scene

SIZE = (20, 24, 28)


def draw_of(seed: int = 0) -> Draw:
    return Draw(seed, torch.device("cpu"))


def empty_scene(spacing_mm: float = 2.0) -> Scene:
    """A field of view without anything in it."""
    zero = torch.zeros(SIZE)
    affine = np.concatenate([spacing_mm * np.eye(3), np.zeros((3, 1))], axis=1)
    return Scene(torch.zeros(17, *SIZE), torch.zeros(3, *SIZE), affine, zero, zero, spacing_mm, skull_stripped=False)


def blocks() -> torch.Tensor:
    """Something of no symmetry in the middle of the field of view."""
    volume = torch.zeros(SIZE)
    volume[6:9, 8:16, 10:18] = 2.0
    volume[8:13, 11:13, 9:13] = 1.0
    return volume


# --- operations ------------------------------------------------------------------------------------------------------


def test_smoothing_and_sampling_are_scipys() -> None:
    volume = draw_of().noise((2, *SIZE))
    found = gaussian(volume, (0.0, 1.3, 2.1))
    judge = np.stack([ndimage.gaussian_filter(one, (0, 1.3, 2.1), mode="constant", truncate=12) for one in volume])
    assert found[..., 9:-9, 13:-13] == pytest.approx(judge[..., 9:-9, 13:-13], abs=1e-4)
    assert gaussian(torch.full(SIZE, 3.0), 2.0) == pytest.approx(3.0, rel=1e-5)
    places = np.random.default_rng(0).uniform(0, np.array(SIZE)[:, None] - 1, (3, 60))
    there = sample(volume, torch.tensor(places, dtype=torch.float32).view(3, 3, 4, 5)).flatten(1)
    for one, expected in zip(there, volume, strict=True):
        assert one == pytest.approx(ndimage.map_coordinates(expected.numpy(), places, order=1), abs=1e-4)
    assert not sample(volume, torch.full((3, 1, 1, 1), -2.0)).any()


def test_a_slab_is_the_mean_of_what_lies_in_it() -> None:
    """Rows are output samples: two samples, three, one and two halves; below one sample, linear interpolation."""
    centres = torch.tensor([1.5, 3.0])
    assert box_matrix(6, centres[:1], 2.0).tolist() == [[0, 0.5, 0.5, 0, 0, 0]]
    assert box_matrix(6, centres[1:], 3.0)[0].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3, 0])
    assert box_matrix(6, centres[1:], 2.0)[0].tolist() == [0, 0, 0.25, 0.5, 0.25, 0]
    assert box_matrix(3, torch.tensor([1.25]), 0.4)[0].tolist() == [0, 0.75, 0.25]


def test_slices_come_back_as_numpy_interpolates_them() -> None:
    positions, values = np.array([0.5, 2.0, 6.5]), np.array([3.0, -1.0, 5.0])
    found = linear_matrix(9, torch.tensor(positions, dtype=torch.float32)) @ torch.tensor(values, dtype=torch.float32)
    assert found == pytest.approx(np.interp(np.arange(9), positions, values), abs=1e-6)
    assert linear_matrix(3, torch.tensor([1.0])).flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_a_shift_samples_that_far_on(axis: int) -> None:
    ramp = torch.arange(SIZE[axis], dtype=torch.float32).view([-1 if one == axis else 1 for one in (-3, -2, -1)])
    volume = ramp.expand(SIZE)[None]
    found = shift_along(volume, torch.tensor(1.25), axis).movedim(axis, 0)
    assert found[:-2] == pytest.approx((volume + 1.25).movedim(axis, 0)[:-2], abs=1e-4)
    assert found[-1] == pytest.approx(SIZE[axis] - 1, abs=0.01)


def test_a_smooth_step_rises_between_its_ends() -> None:
    assert smoothstep(torch.tensor([-1.0, 1.0, 2.0, 3.0, 9.0]), 1.0, 3.0).tolist() == [0, 0, 0.5, 1, 1]


def test_numbers_are_drawn_within_both_ends() -> None:
    draw = draw_of()
    assert {draw.integer(2, 4) for _ in range(60)} == {2, 3, 4}
    assert {draw.choice((0, 1, 0, 3)) for _ in range(60)} == {1, 3}
    many = np.log([draw.log_uniform((1.0, 100.0)) for _ in range(400)])
    assert 0 <= many.min() < many.max() <= math.log(100)
    assert np.median(many) == pytest.approx(math.log(10), abs=0.4)
    smooth = draw.smooth_noise((60, 60, 60), 5.0)[0]
    assert float(smooth.std()) == pytest.approx(0.76, abs=0.08)
    assert float((smooth[1:] - smooth[:-1]).std()) < 0.4


# --- the scanner -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_across_the_axis_that_was_drawn_and_keep_what_is_even(axis: int) -> None:
    """A ramp across the slices comes back as it was between the first and the last of them; its mean of squares grows
    by what a slice is thick.
    """
    config = AcquisitionConfig(slice_axis=tuple(float(one == axis) for one in range(3)), slice_mm=(6.0, 6.0))
    slices = scanner.draw_slices(draw_of(), empty_scene(), config)
    ramp = (
        torch.arange(SIZE[axis], dtype=torch.float32).view([-1 if one == axis else 1 for one in range(3)]).expand(SIZE)
    )
    acquired = slices.acquire(ramp)
    assert [have < side for have, side in zip(acquired.shape, SIZE, strict=True)] == [one == axis for one in range(3)]
    # Thickness of 3 voxels, a gap of up to 0.3 of it.
    step = float(acquired.movedim(axis, 0)[1].mean() - acquired.movedim(axis, 0)[0].mean())
    assert 3.0 <= step <= 3.9 + 1e-4
    found = slices.regrid(acquired).movedim(axis, 0)
    expected = ramp.movedim(axis, 0)
    inner = slice(math.ceil(float(found.min())), math.floor(float(found.max())) + 1)
    assert found[inner] == pytest.approx(expected[inner], abs=1e-3)


def test_the_point_spread_is_within_the_slices() -> None:
    """4.71 mm at half maximum on a grid of 2 mm that blurs by 2 mm² itself: a deviation of 1.86 mm."""
    config = AcquisitionConfig(slice_axis=(0, 1, 0), in_plane_mm=(4.71, 4.71))
    slices = scanner.draw_slices(draw_of(), empty_scene(), config)
    point = torch.zeros(SIZE)
    point[10, 12, 14] = 1.0
    found = scanner.point_spread(draw_of(), point, empty_scene(), slices, config)
    assert not found[:, :12].any()
    assert not found[:, 13:].any()
    at = (torch.arange(SIZE[0]) - 10.0) * 2
    variance = float((found.sum((1, 2)) * at**2).sum() / found.sum())
    assert variance == pytest.approx((4.71**2 - 2.0) / (8 * math.log(2)), rel=0.02)


def test_noise_is_rician() -> None:
    """Without signal its mean is √(π/2) standard deviations; far above the noise it is normal and one deviation."""
    for smooth in (0.0, 0.7):
        air, bright = (
            scanner.add_noise(draw_of(), torch.full((30, 40, 40), level), 0.05, smooth, -3) for level in (0.0, 2.0)
        )
        assert float(air.min()) >= 0
        assert float(air.mean()) == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.03)
        assert float(bright.std()) == pytest.approx(0.05, rel=0.03)
    neighbours = ((bright[1:] - 2) * (bright[:-1] - 2)).mean(), ((bright[:, 1:] - 2) * (bright[:, :-1] - 2)).mean()
    assert abs(float(neighbours[0])) < 0.1 * 0.05**2, "slices have noise of their own"
    assert float(neighbours[1]) > 0.3 * 0.05**2


def test_echo_planar_images_are_displaced_and_keep_their_signal() -> None:
    """A field of ±0.3 ppm, 4 mm a ppm on a grid of 2 mm: ±0.6 voxels along Y. Fractions are not piled up."""
    y = torch.arange(SIZE[1], dtype=torch.float32).view(-1, 1)
    field = (0.3 * torch.sin(2 * math.pi * y / SIZE[1])).expand(SIZE)
    scene = replace(empty_scene(), field_ppm=field)
    smooth = gaussian(blocks(), 1.5)
    found = scanner.echo_planar(smooth[None], scene, 4.0)[0]
    assert float(found.sum()) == pytest.approx(float(smooth.sum()), rel=0.01)
    at = np.stack(np.meshgrid(*(np.arange(side) for side in SIZE), indexing="ij")).astype(float)
    at[1] += 2.0 * field.numpy()
    judge = ndimage.map_coordinates(smooth.numpy(), at, order=1)
    assert scanner.displaced(smooth[None], scene, 4.0)[0] == pytest.approx(judge, abs=1e-4)
    assert found == pytest.approx(judge * (1 + np.gradient(2.0 * field.numpy(), axis=1)), abs=1e-4)
    assert scanner.displaced(torch.ones(1, *SIZE), scene, 4.0) == pytest.approx(1.0)


def test_a_ghost_lies_half_a_field_of_view_away_along_y() -> None:
    config = AcquisitionConfig(ghost=(0.05, 0.05))
    volume = blocks()
    ghosts = [scanner.add_ghost(draw_of(seed), volume, 10.0, config) - volume for seed in range(20)]
    seen = [ghost for ghost in ghosts if ghost.any()]
    assert 4 < len(seen) < 20
    for ghost in seen:
        away = [sign * step for step in range(10, 14) for sign in (1, -1)]
        rolled = [torch.zeros(SIZE) for _ in away]
        for one, step in zip(rolled, away, strict=True):
            inner, outer = slice(max(0, step), SIZE[1] + min(0, step)), slice(max(0, -step), SIZE[1] - max(0, step))
            one[:, inner] = 0.05 * volume[:, outer]
        assert any(torch.allclose(ghost, rolled[n] + rolled[n + 1], atol=1e-6) for n in range(0, len(rolled), 2))


def test_gains_are_of_whole_slices() -> None:
    config = AcquisitionConfig(slice_axis=(0, 0, 1), slice_mm=(6.0, 6.0))
    slices = scanner.draw_slices(draw_of(), empty_scene(), config)
    gains = scanner.slice_gains(draw_of(), slices, 0.02)
    assert gains.shape == (1, 1, slices.take.shape[0])
    assert 0 < float((gains - 1).abs().max()) < 0.1


def test_a_patient_who_moved_is_the_same_patient() -> None:
    """Shifted by what the settings allow at most, rotated about the middle; the volume stays what it was."""
    volume = gaussian(blocks(), 1.0)[None]
    index = torch.stack(torch.meshgrid(*(torch.arange(side).float() for side in SIZE), indexing="ij"))

    def farthest(shift_mm: float, degrees: float) -> torch.Tensor:
        places = []
        for seed in range(12):
            config = AcquisitionConfig(shift_mm=shift_mm, rotation_degrees=degrees)
            found = scanner.moved(draw_of(seed), volume, empty_scene(), config)
            assert float(found.sum()) == pytest.approx(float(volume.sum()), rel=0.02)
            places.append((index * (found - volume)).sum((1, 2, 3)) / volume.sum() * 2.0)
        return torch.stack(places).abs().amax(0)

    assert bool((farthest(3.0, 0.0) > 0.8).all())
    assert bool((farthest(3.0, 0.0) <= 3.0).all())
    # What lies 5 mm from the middle moves by 2 mm, what lies at a corner by 13 mm.
    assert 0.3 < float(farthest(0.0, 20.0).max()) < 3.0

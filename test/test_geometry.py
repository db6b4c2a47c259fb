"""Geometry: whatever the orientation, a mask comes back where it was. SimpleITK is the judge of where points lie."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from builders import (
    AS_IT_IS,
    IDENTITY,
    ball,
    centre_of,
    dice,
    grid_of,
    itk_image,
    orientations,
    points_of,
    rotated,
    rotation,
    spec_of,
)
from segsync import geometry
from segsync.arrays import Array, SizeZYX, Triple
from segsync.bundle import ChannelSpec
from segsync.geometry import Grid, Volume, canonical_axes, canonical_grid, resample, respaced
from segsync.postprocess import labels_on
from segsync.preprocess import prepare

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
OBLIQUE = (17.0, -24.0, 31.0)


def there_and_back(mask: Array, grid: Grid, spacing_zyx: Triple) -> npt.NDArray[np.uint8]:
    """The mask through the runtime's way to the model's grid and back to its own."""
    spec = spec_of(ChannelSpec(name="t1", normalisation=AS_IT_IS), spacing_zyx=spacing_zyx)
    prepared = prepare(lambda name: Volume(mask, grid), spec, "t1")
    labels, removed = labels_on(prepared.array, prepared.grid, grid, spec)
    assert removed == 0
    return labels


def variances(grid: Grid, spacing_zyx: Triple) -> npt.NDArray[np.float64]:
    """Greatest variance (mm²) along each array axis of the weights with which voxels come back. See `reach_mm`."""
    own = np.asarray(grid.spacing_zyx)
    step = np.asarray(spacing_zyx)[list(np.argsort(canonical_axes(grid)[0]))]
    blur = np.maximum(0, step**2 - own**2) / FWHM_PER_SIGMA**2
    spread: npt.NDArray[np.float64] = own**2 / 4 + step**2 / 4 + blur
    return np.where(np.asarray(grid.size_zyx) == 1, 0.0, spread)


def reach_mm(grid: Grid, spacing_zyx: Triple, edges: bool) -> float:
    """How near another label must be, in mm, for a voxel to lose its own on the way there and back.

    Every step (Gaussian, linear interpolation to the model's grid, linear interpolation back) gives a voxel at p a
    weighted mean of the mask. The weights of all steps together are a distribution over voxels Q whose mean is p, since
    each step reproduces linear functions, and whose variance along axis i is at most
        v_i = s_i²/4 + t_i²/4 + max(0, t_i² - s_i²) / (8 ln 2):
    linear interpolation between points a apart has variance a² u (1 - u) <= a²/4, and the Gaussian is as `resample`
    says (s: own spacing, t: the model's). By Chebyshev, the weight farther from p than d is at most sum(v) / d²; it
    stays below one half, and the label is kept, where everything within d = sqrt(2 sum(v)) has that label.
    At the edges of the field of view, positions are clamped by up to half a voxel of either grid: so much is added.
    """
    spread = variances(grid, spacing_zyx)
    clamped = 0.5 * np.linalg.norm(np.asarray(grid.spacing_zyx) + max(spacing_zyx)) if edges else 0.0
    return float(np.sqrt(2 * spread.sum()) + clamped)


def safe_voxels(mask: Array, grid: Grid, reach: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Voxels that must stay foreground, and those that must stay background."""
    inside = mask > 0
    if inside.all() or not inside.any():
        return inside, ~inside
    to_background = distance_transform_edt(inside, sampling=grid.spacing_zyx)
    to_foreground = distance_transform_edt(~inside, sampling=grid.spacing_zyx)
    return to_background > reach + 1e-3, to_foreground > reach + 1e-3


def least_dice(stays: npt.NDArray[np.bool_], never: npt.NDArray[np.bool_]) -> float:
    """Dice where everything that may be lost is lost, and everything that may be gained is gained."""
    # 2 |kept| / (|mask| + |kept| + |possible| - |mask|)
    kept, possible = np.count_nonzero(stays), np.count_nonzero(~never)
    return 2.0 * kept / (kept + possible) if possible else 1.0


# --- points and axes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", orientations())
def test_voxels_lie_where_simpleitk_says(direction: tuple[float, ...]) -> None:
    grid = grid_of((3, 4, 5), (2.5, 0.7, 1.1), (10.0, -20.0, 30.0), rotated(direction, OBLIQUE))
    image = itk_image(np.zeros(grid.size_zyx, dtype=np.uint8), grid)
    assert Grid.of(image) == grid
    for z, y, x in ((0, 0, 0), (2, 3, 4), (1, 0, 3)):
        assert grid.points([z, y, x]) == pytest.approx(image.TransformIndexToPhysicalPoint((x, y, z)), abs=1e-9)


@pytest.mark.parametrize("direction", orientations())
@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (12.0, -9.0, 14.0)], ids=["straight", "oblique"])
def test_canonical_axes_are_those_of_simpleitk(direction: tuple[float, ...], degrees: Triple) -> None:
    """`DICOMOrientImageFilter` turns to LPS without interpolation: the same voxels at the same places."""
    grid = grid_of((3, 4, 5), (2.5, 0.7, 1.1), (10.0, -20.0, 30.0), rotated(direction, degrees))
    array = np.arange(60, dtype=np.int16).reshape(grid.size_zyx)
    judge = sitk.DICOMOrient(itk_image(array, grid), "LPS")
    ours = canonical_grid(grid)
    assert ours.same_as(Grid.of(judge))
    assert ours.size_zyx == Grid.of(judge).size_zyx
    turned_array = resample(Volume(array, grid), ours)
    assert turned_array.dtype == np.float32
    assert np.array_equal(turned_array, sitk.GetArrayFromImage(judge))


@pytest.mark.parametrize("direction", orientations())
def test_resampling_agrees_with_simpleitk(direction: tuple[float, ...]) -> None:
    """Onto another lattice altogether, as FLAIR comes to DWI's: by physical space."""
    grid = grid_of((6, 7, 8), (2.0, 1.0, 1.5), (0.0, 0.0, 0.0), rotated(direction, OBLIQUE))
    array = np.random.default_rng(0).normal(size=grid.size_zyx).astype(np.float32)
    target = grid_of((5, 6, 7), (1.7, 1.2, 0.9), tuple(points_of(grid)[2, 2, 2].tolist()))
    there = itk_image(np.zeros(target.size_zyx, dtype=np.float32), target)
    judge = sitk.Resample(itk_image(array, grid), there, sitk.Transform(), sitk.sitkLinear, -7.0, sitk.sitkFloat32)
    assert resample(Volume(array, grid), target, outside=-7.0) == pytest.approx(sitk.GetArrayFromImage(judge), abs=1e-4)


@pytest.mark.parametrize("mm", [0.5, -0.5])
def test_a_grid_half_a_voxel_away_is_another(mm: float) -> None:
    """What lies on it is interpolated, and a label map on it does not fit; rounding in a header is neither."""
    grid = grid_of((4, 5, 6), (3.0, 1.0, 2.0))
    ramp = points_of(grid)[..., 1].astype(np.float32)
    moved, rounded = (replace(grid, origin=(-7.0, 11.0 + by, 3.0)) for by in (mm, mm * 1e-4))
    assert not grid.same_as(moved)
    assert resample(Volume(ramp, grid), moved)[:, 1:-1] == pytest.approx(ramp[:, 1:-1] + mm)
    assert grid.same_as(rounded)
    assert np.array_equal(resample(Volume(ramp, grid), rounded), ramp)


def test_a_spacing_that_a_header_rounds_is_the_models_own() -> None:
    """NIfTI's float32 makes 4.8 and 1.7 a little more: no slice is added, and nothing is interpolated."""
    z, y, x = (float(np.float32(mm)) for mm in (4.8, 1.7, 1.8))
    grid = grid_of((5, 7, 9), (z, y, x))
    noise = np.random.default_rng(0).normal(size=grid.size_zyx).astype(np.float32)
    assert np.array_equal(resample(Volume(noise, grid), respaced(grid, (4.8, 1.7, 1.8))), noise)


def test_the_model_grid_covers_the_field_of_view_about_its_centre() -> None:
    grid = grid_of((7, 9, 5), (5.0, 0.9, 1.3), direction=rotated(orientations()[29], OBLIQUE))
    model = respaced(grid, (2.0, 2.0, 2.0))
    middles = [g.points([(n - 1) / 2 for n in g.size_zyx]) for g in (grid, model)]
    assert middles[0] == pytest.approx(middles[1], abs=1e-9)
    image = itk_image(np.zeros(model.size_zyx, dtype=np.uint8), model)
    for point in points_of(grid).reshape(-1, 3):
        index = np.asarray(image.TransformPhysicalPointToContinuousIndex(point.tolist()))
        assert ((index >= -0.5) & (index <= np.asarray(image.GetSize()) - 0.5)).all()


def test_a_coarser_grid_averages_instead_of_picking() -> None:
    """Noise of variance 1 in 0.5 mm voxels: at 2 mm, picked voxels keep it, a smoothed image has a small part of it."""
    grid = grid_of((40, 40, 40), (0.5, 0.5, 0.5))
    noise = np.random.default_rng(1).normal(size=grid.size_zyx).astype(np.float32)
    coarse = respaced(grid, (2.0, 2.0, 2.0))
    # Gaussian of sigma = sqrt(2² - 0.5²) / 2.355 mm = 1.64 voxels: variance 1 / (2 sqrt(pi) 1.64)³ = 0.005, and a
    # little less by interpolation. Neither sharper nor blurred beyond the model's resolution.
    assert 0.003 < resample(Volume(noise, grid), coarse, antialias=True)[1:-1, 1:-1, 1:-1].var() < 0.006
    assert resample(Volume(noise, grid), coarse)[1:-1, 1:-1, 1:-1].var() > 0.1
    flat = np.full(grid.size_zyx, 3.0, dtype=np.float32)
    assert resample(Volume(flat, grid), coarse, antialias=True) == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize("direction", [IDENTITY, orientations()[24]], ids=["xyz", "yzx"])
@pytest.mark.parametrize(
    ("degrees", "meets"), [(0.0, (2.0, 0.6, 4.0)), (15.0, (2.0, 0.6, 4.0)), (45.0, (2.0, 4.0, 4.0))]
)
def test_waves_are_smoothed_along_the_axes_that_become_coarser(
    direction: tuple[float, ...], degrees: float, meets: Triple
) -> None:
    """A Gaussian of standard deviation σ leaves exp(-k²σ²/2) of a wave of wave number k along its axis.

    The grid is rotated about x by so many degrees against a coarser one; meets: what its axes along x, y and z meet
    there, mm. At 45 degrees those along y and z both meet the thick slices.
    """
    own, k = 0.6, 2 * np.pi / 12.0
    grid = grid_of((50, 50, 50), (own, own, own), direction=rotated(direction, (degrees, 0.0, 0.0)))
    x, y, z = (centre_of(grid) - (7.0, 8.1, 8.0)).tolist()
    target = grid_of((5, 28, 8), (4.0, 0.6, 2.0), (x, y, z))
    variance = (np.square(meets) - own**2) / FWHM_PER_SIGMA**2
    for axis, along in enumerate(rotation((degrees, 0.0, 0.0))):
        wave = np.cos(k * points_of(grid)[..., axis]).astype(np.float32)
        found = resample(Volume(wave, grid), target, antialias=True).ravel()
        phase = k * points_of(target)[..., axis].ravel()
        amplitude = np.hypot(*np.linalg.lstsq(np.stack([np.cos(phase), np.sin(phase)], axis=1), found)[0])
        assert amplitude == pytest.approx(np.exp(-(k**2) / 2 * (along**2 @ variance)), abs=0.03)


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", orientations())
@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), OBLIQUE], ids=["straight", "oblique"])
def test_a_ball_comes_back_in_all_48_orientations(direction: tuple[float, ...], degrees: Triple) -> None:
    """Anisotropic, odd sizes, other spacing: every voxel that the derivation promises, and so the Dice it promises."""
    grid = grid_of((15, 27, 31), (2.0, 1.1, 0.9), direction=rotated(direction, degrees))
    spacing = (1.4, 1.2, 1.0)
    mask = ball(grid, 11.0, (0.6, -0.4, 0.3))
    back = there_and_back(mask, grid, spacing)
    reach = reach_mm(grid, spacing, edges=False)
    stays, never = safe_voxels(mask, grid, reach)
    assert back[stays].all()
    assert not back[never].any()
    # From outside, a ball lies in a half-space. Of one variable, median and mean differ by one standard deviation at
    # most, so that not even the voxels this far from the half-space are gained.
    outward = np.sqrt(variances(grid, spacing).max())
    assert not back[ball(grid, 11.0 + outward + 1e-3, (0.6, -0.4, 0.3)) == 0].any()
    bound = least_dice(stays, ball(grid, 11.0 + outward, (0.6, -0.4, 0.3)) == 0)
    assert dice(back, mask) >= bound > 0.5
    assert dice(back, mask) > 0.95


@pytest.mark.parametrize("direction", orientations())
@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), OBLIQUE], ids=["straight", "oblique"])
def test_at_the_models_own_spacing_nothing_is_interpolated(direction: tuple[float, ...], degrees: Triple) -> None:
    """Turning alone: the same voxels come back, also single ones, whichever way the axes run."""
    order = canonical_axes(grid_of(direction=direction))[0]
    spacing_zyx = [0.0] * 3
    for target, source in enumerate(order):
        spacing_zyx[source] = (3.0, 1.1, 0.8)[target]
    z, y, x = spacing_zyx
    grid = grid_of((5, 7, 9), (z, y, x), direction=rotated(direction, (9.0, -6.0, 11.0) if any(degrees) else degrees))
    mask = (np.random.default_rng(2).random(grid.size_zyx) > 0.7).astype(np.float32)
    assert np.array_equal(there_and_back(mask, grid, (3.0, 1.1, 0.8)), mask)


sides = st.integers(1, 24)
steps = st.floats(0.6, 4.0)
angles = st.floats(-44.0, 44.0)


@settings(max_examples=60)
@given(
    size=st.tuples(sides, sides, sides),
    own=st.tuples(steps, steps, steps),
    model=st.tuples(steps, steps, steps),
    direction=st.sampled_from(orientations()),
    degrees=st.tuples(angles, angles, angles),
    seed=st.integers(0, 2**16),
)
@example(  # a direction with subnormal entries, which ITK's SVD cannot invert
    size=(1, 1, 5),
    own=(1.0, 2.0, 1.0),
    model=(1.0, 1.0, 1.0),
    direction=IDENTITY,
    degrees=(0.0, 0.0, 2.2250738585072014e-308),
    seed=0,
)
def test_any_mask_on_any_grid_keeps_what_lies_beyond_reach(
    size: SizeZYX, own: Triple, model: Triple, direction: tuple[float, ...], degrees: Triple, seed: int
) -> None:
    """Single slices and volumes smaller than a patch among them; masks that touch the edges too."""
    grid = grid_of(size, own, direction=rotated(direction, degrees))
    rng = np.random.default_rng(seed)
    extent = np.asarray(size) * own
    mask = ball(grid, float(rng.uniform(0.2, 0.7) * extent.max()), tuple((rng.uniform(-0.3, 0.3, 3) * extent).tolist()))
    if mask.min() == mask.max():
        return  # a channel with one value alone is refused
    back = there_and_back(mask, grid, model)
    assert back.shape == size
    stays, never = safe_voxels(mask, grid, reach_mm(grid, model, edges=True))
    assert back[stays].all()
    assert not back[never].any()
    assert dice(back, mask) >= least_dice(stays, never)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_comes_back(axis: int) -> None:
    size = [31, 31, 31]
    size[axis] = 1
    z, y, x = size
    grid = grid_of((z, y, x), (1.0, 1.0, 1.0), direction=rotated(IDENTITY, OBLIQUE))
    mask = ball(grid, 10.0)
    back = there_and_back(mask, grid, (0.8, 0.8, 0.8))
    stays, never = safe_voxels(mask, grid, reach_mm(grid, (0.8, 0.8, 0.8), edges=False))
    assert stays.any()
    assert back[stays].all()
    assert not back[never].any()
    assert dice(back, mask) > 0.95


def test_memory_that_ends_in_itk_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line then says so of that case, and goes on with the next."""

    def resample_without_memory(*arguments: object) -> None:
        raise RuntimeError("Exception thrown\nITK ERROR: Image: Failed to allocate memory for image.")

    monkeypatch.setattr(sitk, "Resample", resample_without_memory)
    one, other = grid_of((4, 4, 4)), grid_of((4, 4, 4), (1.5, 1.0, 1.0))
    with pytest.raises(MemoryError, match="Failed to allocate memory"):
        resample(Volume(np.ones((4, 4, 4), np.float32), one), other)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_a_large_image_resampled_in_slabs_is_the_same(
    antialias: bool, turn: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oblique or not, with a target that reaches beyond the image on one side and ends within it on the other."""
    random = np.random.default_rng(0)
    source = Volume(
        random.integers(-1000, 1000, (40, 24, 30)).astype(np.int16),
        grid_of((40, 24, 30), (0.8, 0.5, 0.5), (0.0, 0.0, 0.0)),
    )
    cos, sin = np.cos(turn), np.sin(turn)
    direction = (1.0, 0.0, 0.0, 0.0, cos, -sin, 0.0, sin, cos)
    target = Grid((22, 9, 11), (2.0, 1.5, 1.2), (1.0, -3.0, 2.0), direction)
    whole = resample(source, target, outside=-7.0, antialias=antialias)
    monkeypatch.setattr(geometry, "SOURCE_VOXELS", 4000)
    slabs = list(geometry.resampled_slabs(source, target, outside=-7.0, antialias=antialias))
    assert len(slabs) == 8
    np.testing.assert_allclose(np.concatenate([values for _, values in slabs]), whole, atol=2e-3)
    assert (whole == -7.0).any()
    assert (whole != -7.0).sum() > 100
    np.testing.assert_allclose(resample(source, target, outside=-7.0, antialias=antialias), whole, atol=2e-3)

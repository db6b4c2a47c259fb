"""Small infarcts put into the bundled real case: found or not, by size and by how much brighter DWI is there.

Noise, slices and anatomy are a patient's, and what is put in is known; but real infarcts are no ellipsoids.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from thresholds import dice

from segsync.arrays import Mask
from segsync.geometry import Volume
from segsync.postprocess import components_of
from segsync.predict import Result

Images = dict[str, Volume]
Points = npt.NDArray[np.float64]
Fractions = npt.NDArray[np.float32]

RADII_MM = (2.0, 3.0, 4.5, 7.0)
#: DWI there, times what it was; ADC falls to the second.
CHANGES = ((1.4, 0.75), (1.7, 0.65), (2.2, 0.55))
#: So many at once, in so many images of each kind.
AT_ONCE, IMAGES = 5, 3
#: Between two of them, and from what the network finds in the unchanged images, mm.
APART_MM = 24.0
#: From the brain's surface, mm.
RIM_MM = 8.0
#: ADC of brain tissue that is not ischaemic, 1e-6 mm²/s.
TISSUE_ADC = (600.0, 1100.0)
#: Parts that a voxel is divided into along Z, Y, X, to average over it.
PARTS = (6, 3, 3)


@dataclass(frozen=True)
class Tally:
    """What became of the infarcts of one kind: their mean volume, how many were planted and found.

    overlap: mean Dice of the images, without what was found before; elsewhere_ml: newly found where there is none.
    """

    radius_mm: float
    dwi: float
    adc: float
    planted: int
    found: int
    volume_ml: float
    overlap: float
    elsewhere_ml: float


def planted(images: Images, run: Callable[[Images], Result]) -> Iterator[Tally]:
    """Every size in every contrast. images: dwi and adc of one grid, and flair."""
    dwi, adc = images["dwi"], images["adc"]
    before = run(images).mask > 0
    spacing = dwi.grid.spacing_zyx
    # Along the image's axes, whatever way these point.
    points = np.moveaxis(np.indices(dwi.grid.size_zyx), 0, -1) * np.array(spacing)
    sites = allowed(dwi, adc, before)
    for radius in RADII_MM:
        for brighter, lower in CHANGES:
            rng = np.random.default_rng(int(10 * radius))
            found, volumes, overlaps, elsewhere = 0, [], [], []
            for _ in range(IMAGES):
                spots = [ellipsoid(rng, points, spacing, centre, radius) for centre in drawn(rng, points[sites])]
                fraction = np.max(spots, axis=0)
                changed = images | {
                    "dwi": Volume((dwi.array * (1 + (brighter - 1) * fraction)).astype(np.float32), dwi.grid),
                    "adc": Volume((adc.array * (1 - (1 - lower) * fraction)).astype(np.float32), adc.grid),
                }
                new = (run(changed).mask > 0) & ~ndimage.binary_dilation(before, iterations=2)
                truth = fraction >= 0.5
                found += sum(bool((new & (spot >= 0.5 * spot.max())).any()) for spot in spots)
                places, count = components_of(new)
                hits = np.unique(places[fraction > 0.1])
                stray = np.isin(places, np.setdiff1d(np.arange(1, count + 1), hits))
                volumes.append(float(fraction.sum()) * dwi.grid.voxel_ml / len(spots))
                overlaps.append(dice(new, truth))
                elsewhere.append(float(np.count_nonzero(stray)) * dwi.grid.voxel_ml)
            yield Tally(
                radius, brighter, lower, AT_ONCE * IMAGES, found, float(np.mean(volumes)), float(np.mean(overlaps)),
                float(np.mean(elsewhere)),
            )  # fmt: skip


def allowed(dwi: Volume, adc: Volume, before: Mask) -> Mask:
    """Healthy tissue inside the brain, away from what was found in it."""
    spacing = dwi.grid.spacing_zyx
    signal, diffusion = (volume.array.astype(np.float32) for volume in (dwi, adc))
    rim_mm, away_mm = (np.asarray(ndimage.distance_transform_edt(inside, spacing)) for inside in (signal > 0, ~before))
    healthy: Mask = (diffusion > TISSUE_ADC[0]) & (diffusion < TISSUE_ADC[1])
    return healthy & (rim_mm > RIM_MM) & (away_mm > APART_MM)


def drawn(rng: np.random.Generator, points: Points) -> list[Points]:
    """AT_ONCE of the points (N, 3), no two of them too near."""
    chosen: list[Points] = []
    while len(chosen) < AT_ONCE:
        point = points[rng.integers(len(points))]
        if all(np.linalg.norm(point - other) > APART_MM for other in chosen):
            chosen.append(point)
    return chosen


def ellipsoid(
    rng: np.random.Generator, points: Points, spacing_zyx: tuple[float, float, float], centre: Points, radius_mm: float
) -> Fractions:
    """Fraction (Z, Y, X) of every voxel that lies in an ellipsoid of that mean radius, its axes along the image's."""
    stretch = np.exp(rng.normal(0, 0.2, 3))
    scale = radius_mm * stretch / stretch.prod() ** (1 / 3)
    spacing = np.array(spacing_zyx)
    # Its middle is anywhere in a thick slice.
    offset = points - centre - spacing * [rng.uniform(-0.5, 0.5), 0, 0]
    near = (np.abs(offset) < 2.5 * radius_mm + 5.0).all(-1)
    parts = np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in PARTS), indexing="ij")
    within = np.stack([part.ravel() for part in parts], axis=-1) * spacing
    fraction = np.zeros(points.shape[:3], np.float32)
    fraction[near] = (np.linalg.norm((offset[near][:, None] + within) / scale, axis=-1) < 1).mean(1)
    return fraction

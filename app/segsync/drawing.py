"""A slice of an image in grey with the outlines of masks: what every picture of this project is made of.

Arrays are (rows, columns) as they are seen: of a slice from `geometry.canonical`, rows run to posterior and columns to
the patient's left, so that the right is on the viewer's left.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

from segsync.arrays import Mask

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.generic]
#: A mask and the colour of its line.
Outline = tuple[Mask, Colour]

#: Okabe and Ito's colours for all kinds of colour vision, the one that stands out from black and white first.
COLOURS: tuple[Colour, ...] = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (204, 121, 167),
    (0, 158, 115),
    (230, 159, 0),
)
#: What people drew and what a network predicted, side by side.
REFERENCE, PREDICTED = COLOURS[1], (255, 140, 0)
#: Percentiles shown black and white where nothing is known of the values.
PERCENTILES = (1.0, 99.5)


def grey_window(values: Pixels, percentiles: tuple[float, float] = PERCENTILES) -> tuple[float, float]:
    """The values to show black and white: these percentiles of an image in any unit; infinite ones do not count."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return 0.0, 1.0
    black, white = np.percentile(known, percentiles)
    return float(black), float(white)


def draw_slice(
    values: Pixels,
    window: tuple[float, float],
    outlines: Sequence[Outline] = (),
    *,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    pixels_per_mm: float = 4.0,
    fill: float = 0.0,
) -> Image.Image:
    """One slice, with a line around each mask.

    Lines lie along the voxels' edges. A smaller mask is drawn over a larger; where the two are apart, as labels of one
    map are, the larger one's line stays out of the smaller.

    Args:
        values: The image, (rows, columns); what is not finite is shown as 0.
        window: The values shown black and white.
        outlines: Masks of the same shape with their colours.
        pixel_mm: Size of a voxel, (rows, columns).
        pixels_per_mm: Scale of the picture; its pixels are squares.
        fill: The colour's share inside of a mask, 0 to 1.

    Returns:
        An RGB picture.
    """
    rows, columns = (max(1, round(n * mm * pixels_per_mm)) for n, mm in zip(values.shape, pixel_mm, strict=True))
    black, white = window
    clean = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    grey = (np.clip(clean, black, white) - black) * (255.0 / max(white - black, 1e-6))
    resized = Image.fromarray(grey.astype(np.float32)).resize((columns, rows), Image.Resampling.BICUBIC)
    picture = Image.fromarray(np.asarray(resized).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    present = sorted((one for one in outlines if one[0].any()), key=lambda one: np.count_nonzero(one[0]), reverse=True)
    solids = [_enlarged(mask, picture.size) for mask, _ in present]
    for place, ((mask, colour), solid) in enumerate(zip(present, solids, strict=True)):
        line = _edge(solid)
        for (smaller, _), inside in zip(present[place + 1 :], solids[place + 1 :], strict=True):
            if not (mask & smaller).any():
                line = ImageChops.subtract(line, inside)
        if fill:
            picture.paste(colour, mask=solid.point([0] + [round(255 * fill)] * 255))
        picture.paste(colour, mask=line)
    return picture


def spread(areas: npt.ArrayLike, count: int) -> tuple[int, ...]:
    """Slices to show, spread over those that hold something, from the first.

    They are cut into groups of neighbours, and the middle of each is taken; of the group with the widest slice, that
    slice.

    Args:
        areas: What each slice holds, in any unit.
        count: How many to show at most.

    Returns:
        Their places; none where all are 0.
    """
    held = np.asarray(areas)
    places = np.flatnonzero(held)
    if not places.size:
        return ()
    widest = np.argmax(held)
    groups = np.array_split(places, min(count, places.size))
    return tuple(int(widest if widest in group else group[len(group) // 2]) for group in groups)


def _enlarged(mask: Mask, size: tuple[int, int]) -> Image.Image:
    """The mask in pixels, 255 wherever it has a part: where pixels are larger than voxels, none gets lost."""
    parts = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return parts.point([0] + [255] * 255)


def _edge(solid: Image.Image) -> Image.Image:
    """A line of two pixels outside and one inside, so that little of what it surrounds is covered."""
    return ImageChops.subtract(solid.filter(ImageFilter.MaxFilter(5)), solid.filter(ImageFilter.MinFilter(3)))

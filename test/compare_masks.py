"""Compares the mask of a run with the expected one: same grid, and a Dice of at least 0.99.

    python test/compare_masks.py test/output test/expected

Both are output folders as Grand Challenge knows them, with exactly one image in
`images/stroke-lesion-segmentation`. The last voxel may differ: processors round differently.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SOCKET = Path("images") / "stroke-lesion-segmentation"
LEAST_DICE = 0.99
GRID_TOLERANCE = 1e-4  # mm; and of a direction cosine


def read_mask(folder: Path) -> sitk.Image:
    """Return the one mask of an output folder."""
    files = sorted((folder / SOCKET).glob("*.mha"))
    if len(files) != 1:
        raise SystemExit(f"{folder / SOCKET}: expected exactly one .mha file, found {len(files)}")
    return sitk.ReadImage(str(files[0]))


def grid(image: sitk.Image) -> tuple[tuple[int, ...], np.ndarray]:
    """Return the size, and spacing, origin and direction as one vector."""
    return image.GetSize(), np.concatenate([image.GetSpacing(), image.GetOrigin(), image.GetDirection()])


def volume_ml(image: sitk.Image) -> float:
    """Return the volume of all non-zero voxels in ml."""
    voxels = np.count_nonzero(sitk.GetArrayViewFromImage(image))
    return float(voxels * np.prod(image.GetSpacing()) / 1000.0)


def dice(first: sitk.Image, second: sitk.Image) -> float:
    """Return the Dice coefficient of two masks on one grid; 1 where both are empty."""
    a = sitk.GetArrayViewFromImage(first) > 0
    b = sitk.GetArrayViewFromImage(second) > 0
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def main() -> None:
    """Print one line and exit with 1 where the masks differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("expected", type=Path)
    arguments = parser.parse_args()
    output, expected = read_mask(arguments.output), read_mask(arguments.expected)

    (size, geometry), (expected_size, expected_geometry) = grid(output), grid(expected)
    if size != expected_size or np.abs(geometry - expected_geometry).max() > GRID_TOLERANCE:
        raise SystemExit(f"the mask's grid is {size} {geometry}, expected {expected_size} {expected_geometry}")
    overlap = dice(output, expected)
    sys.stdout.write(
        f"lesion volume {volume_ml(output):.1f} ml (expected {volume_ml(expected):.1f}), Dice {overlap:.3f}\n"
    )
    if overlap < LEAST_DICE:
        raise SystemExit(f"Dice {overlap:.3f} with the expected mask, at least {LEAST_DICE} is asked for")


if __name__ == "__main__":
    main()

"""Folders of heads of noise in nnU-Net's layout, however many, with few files on the disk."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segsync.arrays import SizeZYX

#: That differ; the others are links to them.
DISTINCT = 10


def heads(folder: Path, count: int, size_zyx: SizeZYX, spacing_mm: float, *, lesions: bool = False) -> Path:
    """Balls of noise in air, int16, gzipped; with `lesions`, the mask of one in each."""
    parts = ("imagesTr", "labelsTr") if lesions else ("imagesTr",)
    for part in parts:
        (folder / part).mkdir(parents=True)
    distance = np.linalg.norm(np.indices(size_zyx) - np.array(size_zyx)[:, None, None, None] / 2, axis=0)
    inside = distance < 0.45 * min(size_zyx)
    for number in range(count):
        noise = np.random.default_rng(number).standard_normal(size_zyx) if number < DISTINCT else None
        for part in parts:
            suffix = "_0000.nii.gz" if part == "imagesTr" else ".nii.gz"
            path = folder / part / f"case{number:05d}{suffix}"
            if noise is None:
                path.symlink_to(f"case{number % DISTINCT:05d}{suffix}")
                continue
            head, lesion = (inside * (400 + 60 * noise)).astype(np.int16), (distance < 2 + number).astype(np.uint8)
            image = sitk.GetImageFromArray(head if part == "imagesTr" else lesion)
            image.SetSpacing([spacing_mm] * 3)
            sitk.WriteImage(image, str(path))
    return folder

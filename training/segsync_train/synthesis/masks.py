"""Lesion masks of real patients in standard space, kept small: each in its bounding box, at the model's spacing."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import Tensor

from segsync.errors import InputError
from segsync_train.synthesis.fields import along, box_matrix

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskLibrary:
    """Lesion masks in MNI space.

    Attributes:
        voxels: Every mask's box one after the other, 0 to 255 for a fraction of 0 to 1.
        shapes: (N, 3) ZYX.
        starts: (N + 1) offsets into `voxels`.
        origins_mm: (N, 3) ZYX, LPS position of each box's first voxel.
        volumes_ml: (N,).
    """

    voxels: Tensor
    starts: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]
    origins_mm: npt.NDArray[np.float64]
    volumes_ml: npt.NDArray[np.float64]
    spacing_mm: float

    def to(self, device: str | torch.device) -> "MaskLibrary":
        """The same on another device."""
        return replace(self, voxels=self.voxels.to(device))

    def __len__(self) -> int:
        return len(self.shapes)

    def mask(self, number: int) -> Tensor:
        """(1, Z, Y, X) float32 in 0 to 1: one mask's box."""
        flat = self.voxels[self.starts[number] : self.starts[number + 1]]
        return flat.view(1, *self.shapes[number].tolist()).float() / 255

    def centre_mm(self, number: int) -> npt.NDArray[np.float64]:
        """(3,) ZYX, LPS: the middle of the box."""
        middle: npt.NDArray[np.float64] = self.origins_mm[number] + (self.shapes[number] - 1) * self.spacing_mm / 2
        return middle


def mask_files(folder: Path) -> list[Path]:
    """The NIfTI files of a folder in the order of their names; raises InputError without any."""
    files = sorted(folder.glob("*.nii.gz"))
    if not files:
        raise InputError(
            f"{folder}: expected lesion masks or label maps (*.nii.gz), found no such file; name their folder by "
            "--sources or --set data.sources=DIR (docs/datasets.md), or draw them: segsync-train phantoms"
        )
    return files


def read_masks(files: Sequence[Path], spacing_mm: float) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a `MaskLibrary`, read from NIfTI files in MNI space; empty masks are left out."""
    voxels, shapes, origins, volumes = [], [], [], []
    for file in files:
        image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS")
        binary = sitk.GetArrayFromImage(image) > 0.5
        if not binary.any():
            log.warning("%s: expected a lesion, found an empty mask; it is left out", file)
            continue
        spacing_zyx = np.array(image.GetSpacing()[::-1])
        others = ((1, 2), (0, 2), (0, 1))
        box = [np.flatnonzero(binary.any(axis=pair)) for pair in others]
        crop = torch.from_numpy(binary[tuple(slice(ends[0], ends[-1] + 1) for ends in box)].astype(np.float32))
        origin = np.array(image.GetOrigin()[::-1]) + [ends[0] for ends in box] * spacing_zyx
        for axis in range(3):
            step = spacing_mm / spacing_zyx[axis]
            # One voxel of margin, so that interpolation at the box's edge falls to zero.
            count = int(np.ceil(crop.shape[axis] / step)) + 2
            centres = (torch.arange(count) - 1) * step + (step - 1) / 2
            crop = along(crop, box_matrix(crop.shape[axis], centres, step), axis - 3)
            origin[axis] += float(centres[0]) * spacing_zyx[axis]
        fraction = (crop.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        voxels.append(fraction.ravel())
        shapes.append(fraction.shape)
        origins.append(origin)
        volumes.append(binary.sum() * spacing_zyx.prod() / 1000)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in voxels])]).astype(np.int64)
    return {
        "voxels": np.concatenate(voxels),
        "starts": starts,
        "shapes": np.array(shapes, dtype=np.int64),
        "origins_mm": np.array(origins),
        "volumes_ml": np.array(volumes),
    }

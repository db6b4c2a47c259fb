"""Heads ready for sampling: tissue fractions at the model's spacing, magnetic field, standard space."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from segsync.arrays import FloatArray
from segsync.errors import InputError
from segsync_train.synthesis import masks
from segsync_train.synthesis.fields import along, reduction
from segsync_train.synthesis.susceptibility import shimmed_field_ppm
from segsync_train.synthesis.tissues import (
    CEREBRUM_AND_CEREBELLUM,
    LABELS,
    LATERAL_VENTRICLES,
    MNI_CENTRES_RAS,
    MNI_OUTLINE_LPS_ZYX,
    PARENCHYMA,
    Tissue,
)

#: Depth below the lowest cerebellum that is kept of a head, mm.
NECK_MM = 25.0


@dataclass(frozen=True)
class Scan:
    """What a real T1-weighted image shows beyond the tissues that were told in it.

    Attributes:
        texture: (1, Z, Y, X) float16, image less the tissues' mean signals, white matter being 1.
        signals: (11,) float32, mean signal of each `Tissue` inside the skull.
    """

    texture: Tensor
    signals: Tensor


@dataclass(frozen=True)
class Anatomy:
    """One head, arrays (Z, Y, X) in LPS order at the model's spacing.

    Attributes:
        tissues: (17, Z, Y, X) uint8, the fraction (0 to 255) of each `Tissue`; what is missing to 255 is air.
        field_ppm: (1, Z, Y, X) float16, deviation of the shimmed main field.
        ventricle_mm: (1, Z, Y, X) uint8, distance to the lateral ventricles.
        standard_from_mm: (3, 4), MNI position (LPS, ZYX, mm) from mm in this array, whose first voxel's centre is at 0
            mm.
        scan: Of an anatomy that was read from a real image instead of a label map.
    """

    tissues: Tensor
    field_ppm: Tensor
    ventricle_mm: Tensor
    standard_from_mm: FloatArray
    scan: Scan | None = None

    def to(self, device: str | torch.device) -> "Anatomy":
        """The same on another device."""
        return Anatomy(
            self.tissues.to(device),
            self.field_ppm.to(device),
            self.ventricle_mm.to(device),
            self.standard_from_mm,
            self.scan and Scan(self.scan.texture.to(device), self.scan.signals.to(device)),
        )


@dataclass(frozen=True)
class Anatomies:
    """All that samples are drawn from, on one device.

    Attributes:
        scans: Real brains without lesions, by the name of their file up to the first underscore (`sub-02`).
    """

    heads: tuple[Anatomy, ...]
    acute: masks.MaskLibrary
    chronic: masks.MaskLibrary
    spacing_mm: float
    scans: dict[str, Anatomy] = field(default_factory=dict)

    def to(self, device: str | torch.device) -> "Anatomies":
        """The same on another device."""
        heads = tuple(head.to(device) for head in self.heads)
        scans = {name: scan.to(device) for name, scan in self.scans.items()}
        return Anatomies(heads, self.acute.to(device), self.chronic.to(device), self.spacing_mm, scans)


def read_head(file: Path, spacing_mm: float) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an `Anatomy`, computed from one label map."""
    labels, source_mm = read_labels(file)
    brain = np.argwhere(np.isin(labels, CEREBRUM_AND_CEREBELLUM))
    head = np.argwhere(labels > 0)
    low = head.min(0)
    low[0] = max(low[0], brain[:, 0].min() - round(NECK_MM / source_mm[0]))
    high = head.max(0) + 1
    crop = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    matrices = reduction(crop.shape, source_mm, spacing_mm)
    tissues = np.stack([fractions(np.isin(crop, LABELS[tissue]), matrices) for tissue in Tissue])
    # Position 0 mm is the centre of the reduced array's first voxel.
    first = low * source_mm + (spacing_mm - source_mm) / 2
    air = labels == 0
    ventricle = fractions(np.isin(crop, LATERAL_VENTRICLES), matrices) >= 128
    distance = ndimage.distance_transform_edt(~ventricle, sampling=spacing_mm)
    parenchyma = tissues[PARENCHYMA].sum(0, dtype=np.int32) > 128
    field = shimmed_field_ppm(air, source_mm, first, parenchyma, spacing_mm)
    return {
        "tissues": tissues,
        "field_ppm": field[None].astype(np.float16),
        "ventricle_mm": np.minimum(distance, 255).astype(np.uint8)[None],
        "standard_from_mm": _standard_from_mm(labels, source_mm, first),
    }


def read_labels(file: Path) -> tuple[npt.NDArray[np.int16], FloatArray]:
    """A whole-head label map (Z, Y, X) in LPS order, and its spacing (3,) in mm; raises InputError otherwise."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS")
    labels = np.rint(sitk.GetArrayFromImage(image)).astype(np.int16)
    if not np.isin(CEREBRUM_AND_CEREBELLUM, labels).all():
        raise InputError(f"{file}: expected FreeSurfer labels of a whole brain, found {np.unique(labels)[:8]}...")
    return labels, np.array(image.GetSpacing()[::-1])


def fractions(binary: npt.NDArray[np.bool_], matrices: list[Tensor]) -> npt.NDArray[np.uint8]:
    """The fraction (0 to 255) of each coarse voxel that the mask fills."""
    fraction = torch.from_numpy(binary.astype(np.float32))
    for axis, matrix in enumerate(matrices):
        fraction = along(fraction, matrix, axis - 3)
    result: npt.NDArray[np.uint8] = (fraction.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return result


def _standard_from_mm(labels: npt.NDArray[np.int16], source_mm: FloatArray, first: FloatArray) -> FloatArray:
    """Affine (3, 4) to MNI space: rotation by deep structures' centres (Kabsch), scale and shift by the outline."""
    wanted = np.array(list(MNI_CENTRES_RAS.values()))[:, ::-1] * [1.0, -1.0, -1.0]
    centres = ndimage.center_of_mass(np.ones_like(labels, dtype=np.uint8), labels, list(MNI_CENTRES_RAS))
    found = np.array(centres) * source_mm - first
    a, b = found - found.mean(0), wanted - wanted.mean(0)
    u, _, vt = np.linalg.svd(a.T @ b)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ sign @ u.T
    outline = (np.argwhere(np.isin(labels, CEREBRUM_AND_CEREBELLUM))[::7] * source_mm - first) @ rotation.T
    low, high = np.percentile(outline, [0.02, 99.98], axis=0)
    target_low, target_high = np.array(MNI_OUTLINE_LPS_ZYX)
    scale = (target_high - target_low) / (high - low)
    return np.concatenate([scale[:, None] * rotation, (target_low - scale * low)[:, None]], axis=1)

"""A head in space: one label map placed, rotated and bent onto the model's grid, before any image is made of it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from segsync.arrays import FloatArray
from segsync_train.config.synthesis import AnatomyConfig
from segsync_train.synthesis.anatomy import Anatomy
from segsync_train.synthesis.fields import Draw, gaussian, sample
from segsync_train.synthesis.tissues import INTRACRANIAL, MNI_OUTLINE_LPS_ZYX, PARENCHYMA, Tissue

#: Spacing of the control grid on which all displacements are added up, mm.
CONTROL_MM = 8.0


@dataclass(frozen=True)
class Scene:
    """One patient on the model's grid (Z, Y, X).

    Attributes:
        tissues: (11 or 17, Z, Y, X) float32 fractions in 0 to 1, by `Tissue`; without the skull only what is inside it.
        standard_mm: (3, Z, Y, X), MNI position (LPS, ZYX).
        standard_from_index: (3, 4), the same without the bending.
        ventricle_mm: (Z, Y, X), distance to the lateral ventricles.
        field_ppm: (Z, Y, X), deviation of the main field.
        spacing_mm: Of the voxels.
        skull_stripped: Whether the skull is to be removed.
        texture: (Z, Y, X) of a real scan, see `anatomy.Scan`; None for a label map.
        signals: (11,), likewise.
    """

    tissues: Tensor
    standard_mm: Tensor
    standard_from_index: FloatArray
    ventricle_mm: Tensor
    field_ppm: Tensor
    spacing_mm: float
    skull_stripped: bool
    texture: Tensor | None = None
    signals: Tensor | None = None

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        """Voxels along Z, Y, X."""
        z, y, x = self.tissues.shape[1:]
        return z, y, x

    @property
    def parenchyma(self) -> Tensor:
        """(Z, Y, X): fraction of brain tissue."""
        return self.tissues[PARENCHYMA].sum(0)

    @property
    def brain(self) -> Tensor:
        """(Z, Y, X): fraction of the brain with its ventricles and half of the fluid around it."""
        return (self.parenchyma + self.tissues[Tissue.VENTRICLE] + 0.5 * self.tissues[Tissue.OUTER_CSF]).clamp(0, 1)


def rotation_zyx(degrees_xyz: tuple[float, float, float]) -> FloatArray:
    """(3, 3) rotation of (z, y, x) vectors about the X, then Y, then Z axis."""
    a, b, c = np.radians(degrees_xyz)
    about_x = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[1, 0, 0], [0, np.cos(c), np.sin(c)], [0, -np.sin(c), np.cos(c)]])
    product: FloatArray = about_z @ about_y @ about_x
    return product


def place(draw: Draw, anatomy: Anatomy, config: AnatomyConfig, skull_stripped: bool, spacing_mm: float) -> Scene:
    """Bring one label map onto a new grid, upright but for a random rotation, bent, mirrored in half the cases."""
    upright, scale = _upright(anatomy.standard_from_mm)
    low, high = np.array(MNI_OUTLINE_LPS_ZYX)
    to_mm = np.linalg.inv(anatomy.standard_from_mm[:, :3])
    centre = to_mm @ ((low + high) / 2 - anatomy.standard_from_mm[:, 3])
    half = (high - low) / 2 / scale

    rotation = rotation_zyx(tuple(draw.uniform((-limit, limit)) for limit in config.rotation_degrees))  # type: ignore[arg-type]
    size = draw.uniform(config.scale) * np.array([draw.uniform(config.stretch) for _ in range(3)])
    mirror = np.array([1.0, 1.0, -1.0 if draw.chance(0.5) else 1.0])
    # Patient space has its origin at the brain's middle; p -> map: unturn, unscale, mirror, into the map's own pose.
    map_from_patient = upright.T @ np.diag(mirror / size) @ rotation.T

    corners = _extent(draw, anatomy, config, skull_stripped, half, size, rotation, centre, map_from_patient, spacing_mm)
    count = np.maximum(np.ceil((corners[1] - corners[0]) / spacing_mm).astype(int) + 1, 8)
    index = _control_index(count, spacing_mm, draw.device)
    patient = index * spacing_mm + torch.tensor(corners[0], dtype=torch.float32, device=draw.device).view(3, 1, 1, 1)
    in_map = _apply(map_from_patient, centre, patient)
    in_map = in_map + _displacement(draw, anatomy, config, in_map, map_from_patient, spacing_mm)
    fine = F.interpolate(in_map[None], size=tuple(count.tolist()), mode="trilinear", align_corners=True)[0]

    rows = INTRACRANIAL if skull_stripped else slice(None)
    layers = [anatomy.tissues[rows].float() / 255, anatomy.field_ppm.float(), anatomy.ventricle_mm.float()]
    scan = anatomy.scan
    if scan is not None:
        layers.append(scan.texture.float())
    sampled = sample(torch.cat(layers), fine / spacing_mm)
    tissues, field_ppm, ventricle_mm, *texture = torch.split(sampled, [len(layer) for layer in layers])
    tissues = _atrophy(tissues, draw.uniform(config.atrophy))
    standard = anatomy.standard_from_mm
    affine = standard[:, :3] @ map_from_patient
    shift = standard[:, :3] @ (centre + map_from_patient @ corners[0]) + standard[:, 3]
    return Scene(
        tissues=tissues,
        standard_mm=_apply(standard[:, :3], standard[:, 3], fine),
        standard_from_index=np.concatenate([affine * spacing_mm, shift[:, None]], axis=1),
        ventricle_mm=ventricle_mm[0],
        field_ppm=field_ppm[0],
        spacing_mm=spacing_mm,
        skull_stripped=skull_stripped,
        texture=texture[0][0] if texture else None,
        signals=scan.signals if scan is not None else None,
    )


def _upright(standard_from_mm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotation that sets the map's head upright as MNI space is, and the scale to MNI space of each axis."""
    scale = np.linalg.norm(standard_from_mm[:, :3], axis=1)
    return standard_from_mm[:, :3] / scale[:, None], scale


def _extent(
    draw: Draw,
    anatomy: Anatomy,
    config: AnatomyConfig,
    skull_stripped: bool,
    half: FloatArray,
    size: FloatArray,
    rotation: FloatArray,
    centre: FloatArray,
    map_from_patient: FloatArray,
    spacing_mm: float,
) -> FloatArray:
    """(2, 3): corners of the field of view in patient space, mm."""
    # Ellipsoid about the brain, rotated: its extent is smaller than that of the rotated box.
    reach = np.sqrt(((rotation * (size * half)) ** 2).sum(1)) * 1.05
    low, high = -reach, reach
    if not skull_stripped:
        ends = (np.array(anatomy.tissues.shape[1:]) - 1) * spacing_mm
        middle = np.linalg.inv(map_from_patient) @ (ends / 2 - centre)
        back = np.linalg.inv(map_from_patient)
        reach = np.sqrt(((back * (ends / 2)) ** 2).sum(1))
        low, high = np.minimum(low, middle - reach), np.maximum(high, middle + reach)
        # Axial head images begin about the foramen magnum.
        low[0] = max(low[0], -half[0] - draw.uniform((5.0, 30.0)))
    margin = np.array([[draw.uniform(config.margin_mm) for _ in range(3)] for _ in range(2)])
    low, high = low - margin[0], high + margin[1]
    if draw.chance(config.cut):
        low[0] += draw.uniform(config.cut_mm) * draw.chance(0.7)
        high[0] -= draw.uniform(config.cut_mm) * draw.chance(0.4)
    return np.stack([low, high])


def _control_index(count: npt.NDArray[np.int64], spacing_mm: float, device: torch.device) -> Tensor:
    """(3, z, y, x): voxel indices of a coarse grid whose corners are the fine grid's."""
    axes = [
        torch.linspace(0, float(side - 1), max(2, int(np.ceil(side * spacing_mm / CONTROL_MM)) + 1), device=device)
        for side in count
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _apply(matrix: FloatArray, shift: FloatArray, points: Tensor) -> Tensor:
    linear = torch.tensor(matrix, dtype=torch.float32, device=points.device)
    offset = torch.tensor(shift, dtype=torch.float32, device=points.device).view(-1, 1, 1, 1)
    return (linear @ points.flatten(1)).view(-1, *points.shape[1:]) + offset


def _displacement(
    draw: Draw,
    anatomy: Anatomy,
    config: AnatomyConfig,
    in_map: Tensor,
    map_from_patient: FloatArray,
    spacing_mm: float,
) -> Tensor:
    """Elastic bending and the pull of wider or narrower ventricles, on the control grid, mm in the map."""
    step = draw.uniform(config.elastic_mm) / CONTROL_MM
    bend = draw.smooth_noise(in_map.shape[1:], step, channels=3) * draw.uniform(config.elastic_std_mm)
    pull: float | Tensor = draw.uniform(config.ventricle_mm)
    if config.asymmetric > 0 and draw.chance(config.asymmetric):
        # One side's walls move more than the other's, as in one healthy person in ten.
        standard = anatomy.standard_from_mm
        side = _apply(standard[2:, :3], standard[2:, 3], in_map)[0]
        pull = pull * (1 + draw.uniform((-0.8, 0.8)) * torch.tanh(side / 8.0))
    distance = sample(anatomy.ventricle_mm.float(), in_map / spacing_mm)
    distance = gaussian(distance, 0.6)[0]
    slope = torch.stack(torch.gradient(distance, spacing=CONTROL_MM))
    push = -pull * slope.clamp(-1, 1) * torch.exp(-distance / 15.0)
    return bend + _apply(map_from_patient, np.zeros(3), push)


def _atrophy(tissues: Tensor, exponent: float) -> Tensor:
    """Shift the fraction of fluid against brain where both meet; all else stays, a voxel's sum to a few hundredths."""
    brain = tissues[PARENCHYMA].sum(0)
    fluid = tissues[Tissue.OUTER_CSF]
    both = brain + fluid
    fraction = (fluid / both.clamp(min=1e-3)).clamp(0, 1)
    widened = torch.where(fraction > 0.02, fraction**exponent, fraction)
    tissues = tissues.clone()
    tissues[Tissue.OUTER_CSF] = both * widened
    tissues[PARENCHYMA] *= ((1 - widened) / (1 - fraction).clamp(min=1e-3)).clamp(0, 2)
    return tissues

"""Small networks, weights, images and case folders that the tests are made of: no torch, nothing trained."""

import itertools
import json
import locale
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import SimpleITK as sitk
from onnx import TensorProto, helper

from segsync.arrays import Array, SizeZYX, Triple
from segsync.bundle import (
    MODEL_FILE,
    SPEC_FILE,
    ChannelSpec,
    Fixed,
    InferenceSpec,
    ModelSpec,
    ZScore,
    sha256_of,
    write_manifest,
)
from segsync.geometry import Grid, Volume

OPSET = 17
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
#: Takes a mask of 0 and 1 as it is.
AS_IT_IS = Fixed(low=0, high=1, mean=0, std=1)
ADC = Fixed(low=0, high=3000, mean=1000, std=500)

#: The channels that the bundles of each task read, the reference first.
CHANNELS = {
    "isles22": (
        ChannelSpec(name="dwi", normalisation=AS_IT_IS),
        ChannelSpec(name="adc", normalisation=ADC),
        ChannelSpec(name="flair", normalisation=ZScore(), optional=True),
    ),
    "isles24": (
        ChannelSpec(name="ncct", normalisation=AS_IT_IS),
        ChannelSpec(name="tmax", normalisation=Fixed(low=0, high=20, mean=5, std=4)),
    ),
    "aims-tbi": (ChannelSpec(name="t1", normalisation=AS_IT_IS),),
    "isles26": (ChannelSpec(name="t1", normalisation=AS_IT_IS),),
}


@dataclass(frozen=True)
class Outcome:
    """What the command line did: exit code, and what it wrote."""

    code: int
    out: str
    err: str


#: Runs `segsync ARGUMENT...`; the fixture `cli` is one.
Cli = Callable[..., Outcome]


# --- networks --------------------------------------------------------------------------------------------------------


def graph(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, object], channels: int, labels: int = 1) -> bytes:
    """An ONNX model from `x` (N, channels, Z, Y, X) to `y` (N, labels, Z, Y, X), with named constants."""
    sides = ["Z", "Y", "X"]
    body = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", labels, *sides])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    # The intermediate representation is named, since onnx writes newer ones than ONNX Runtime opens.
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


FIRST_CHANNEL = {"from": np.array([0]), "to": np.array([1]), "axis": np.array([1])}


def copying(channels: int) -> bytes:
    """The first channel, clipped to [0, 1], as the lesion's probability."""
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["first"]),
        helper.make_node("Clip", ["first", "low", "high"], ["y"]),
    ]
    return graph(nodes, {**FIRST_CHANNEL, "low": np.float32(0), "high": np.float32(1)}, channels)


def constant(value: float) -> bytes:
    """The same probability everywhere, whatever the channel shows."""
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "value"], ["y"]),
    ]
    return graph(nodes, {"zero": np.float32(0), "value": np.float32(value)}, channels=1)


def two_labels() -> bytes:
    """Both channels, clipped to [0, 1], as the probabilities of two labels."""
    nodes = [helper.make_node("Clip", ["x", "low", "high"], ["y"])]
    return graph(nodes, {"low": np.float32(0), "high": np.float32(1)}, channels=2, labels=2)


def greedy(channels: int, most_voxels: int) -> bytes:
    """Copies like `copying`, but asks for 256 TiB in a window of more voxels than these: memory ends for real."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=2),
        helper.make_node("ReduceProd", ["shape"], ["voxels"], keepdims=1),
        helper.make_node("Greater", ["voxels", "limit"], ["too_many"]),
        helper.make_node("Where", ["too_many", "huge", "one"], ["length"]),
        helper.make_node("ConstantOfShape", ["length"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["first"]),
        helper.make_node("Clip", ["first", "low", "high"], ["clipped"]),
        helper.make_node("Add", ["clipped", "zero"], ["y"]),
    ]
    constants = {
        **FIRST_CHANNEL,
        "low": np.float32(0),
        "high": np.float32(1),
        "limit": np.array([most_voxels]),
        "huge": np.array([2**46]),
        "one": np.array([1]),
    }
    return graph(nodes, constants, channels)


# --- weights ---------------------------------------------------------------------------------------------------------


def write_bundle(
    folder: Path,
    task: str,
    *,
    model: bytes | None = None,
    channels: Sequence[ChannelSpec] | None = None,
    spacing_zyx: Triple = (1.0, 1.0, 1.0),
    patch_zyx: SizeZYX = (16, 16, 16),
    multiple_zyx: SizeZYX = (4, 4, 4),
    labels: Mapping[int, str] | None = None,
    **changes: object,
) -> Path:
    """A folder of weights, by default with the network that copies its first channel; changes: fields of its spec."""
    chosen = tuple(channels or CHANNELS[task])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(model if model is not None else copying(len(chosen)))
    spec = ModelSpec(
        name="copy",
        task=task,
        channels=chosen,
        labels=dict(labels or {1: "lesion"}),
        spacing_zyx=spacing_zyx,
        patch_zyx=patch_zyx,
        multiple_zyx=multiple_zyx,
        opset=OPSET,
        sha256=sha256_of(folder / MODEL_FILE),
        licence="Apache-2.0",
    )
    # Checked again, since a change may be one that the schema refuses.
    (folder / SPEC_FILE).write_text(json.dumps({**spec.model_dump(mode="json"), **changes}))
    return folder


def write_weights(folder: Path) -> Path:
    """A folder with the copying network for every task, and its manifest."""
    for task in CHANNELS:
        write_bundle(folder / task, task)
    write_manifest(folder)
    return folder


# --- images ----------------------------------------------------------------------------------------------------------


def orientations() -> list[tuple[float, ...]]:
    """The 48 ways in which index axes can run along patient axes, as row-major directions."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
                matrix[row, column] = sign
            found.append(tuple(matrix.ravel().tolist()))
    return found


def rotation(degrees_xyz: Triple) -> npt.NDArray[np.float64]:
    """The rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, degrees in enumerate(degrees_xyz):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        about = np.eye(3)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        about[[i, i, j, j], [i, j, i, j]] = [c, -s, s, c]
        matrix = about @ matrix
    return matrix


def rotated(direction: tuple[float, ...], degrees_xyz: Triple) -> tuple[float, ...]:
    """A direction rotated obliquely."""
    return tuple((rotation(degrees_xyz) @ np.reshape(direction, (3, 3))).ravel().tolist())


def grid_of(
    size_zyx: SizeZYX = (14, 16, 18),
    spacing_zyx: Triple = (1.0, 1.0, 1.0),
    origin: Triple = (-7.0, 11.0, 3.0),
    direction: tuple[float, ...] = IDENTITY,
) -> Grid:
    """A grid, by default a small one of 1 mm with its axes along the patient's."""
    return Grid(size_zyx, spacing_zyx, origin, direction)


def spec_of(*channels: ChannelSpec, spacing_zyx: Triple = (1.0, 1.0, 1.0), **changes: object) -> InferenceSpec:
    """What the way from images to labels needs of a model, by default of one lesion in windows of 8 voxels."""
    given = {"labels": {1: "lesion"}, "patch_zyx": (8, 8, 8), "multiple_zyx": (8, 8, 8), **changes}
    return InferenceSpec.model_validate({"channels": channels, "spacing_zyx": spacing_zyx, **given})


def points_of(grid: Grid) -> npt.NDArray[np.float64]:
    """Physical points (Z, Y, X, 3) of all voxel centres."""
    return grid.points(np.stack(np.meshgrid(*(np.arange(n) for n in grid.size_zyx), indexing="ij"), axis=-1))


def centre_of(grid: Grid) -> npt.NDArray[np.float64]:
    """The physical point in the middle of the field of view."""
    return grid.points([(n - 1) / 2 for n in grid.size_zyx])


def ball(grid: Grid, radius_mm: float, offset_mm: Triple = (0.0, 0.0, 0.0)) -> Array:
    """1 inside a ball about the middle of the grid (moved by the offset), 0 outside."""
    distance = np.linalg.norm(points_of(grid) - centre_of(grid) - offset_mm, axis=-1)
    inside: Array = (distance <= radius_mm).astype(np.float32)
    return inside


def itk_image(array: npt.NDArray[np.generic], grid: Grid) -> sitk.Image:
    """The array (Z, Y, X) as SimpleITK knows it."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def write_image(path: Path, array: npt.NDArray[np.generic], grid: Grid | None = None, *, compress: bool = True) -> Path:
    """Write an array by SimpleITK itself, not by the code under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(itk_image(array, grid or grid_of(tuple(array.shape))), str(path), useCompression=compress)
    return path


def write_dicom(folder: Path, volume: Volume, series: str = "1.2.826.0.1.3680043.2.1125.1") -> Path:
    """One DICOM series of int16 slices."""
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.Cast(itk_image(volume.array, volume.grid), sitk.sitkInt16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    d = volume.grid.direction
    kept = locale.setlocale(locale.LC_ALL)
    for number in range(image.GetDepth()):
        plane = image[:, :, number]
        position = image.TransformIndexToPhysicalPoint((0, 0, number))
        tags = {
            "0008|0060": "MR",
            "0020|000e": series,
            "0020|000d": f"{series}.1",
            "0008|0018": f"{series}.2.{number + 1}",
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(f"{mm:.10g}" for mm in position),
            "0020|0037": "\\".join(f"{v:.10g}" for v in (d[0], d[3], d[6], d[1], d[4], d[7])),
            "0018|0050": f"{volume.grid.spacing_zyx[0]:.10g}",
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number:03d}.dcm"))
        writer.Execute(plane)
    locale.setlocale(locale.LC_ALL, kept)  # the DICOM library leaves "C" behind, in which `open` knows ASCII alone
    return folder


# --- cases -----------------------------------------------------------------------------------------------------------


def tissue_of(grid: Grid, value: float) -> Array:
    """An image whose every voxel shows the patient, with some texture."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.size_zyx), indexing="ij")
    texture: Array = (value * (1 + 0.1 * np.sin(z + 2 * y + 3 * x))).astype(np.float32)
    return texture


def isles22_volumes(lesion: Array, grid: Grid) -> dict[str, Volume]:
    """A case whose DWI is the lesion's mask itself, with ADC and FLAIR on the same grid."""
    return {
        "dwi": Volume(lesion, grid),
        "adc": Volume(tissue_of(grid, 800), grid),
        "flair": Volume(tissue_of(grid, 100), grid),
    }


def write_platform(
    folder: Path, images: Mapping[str, Volume], listing: str | None = None, json_files: str = ""
) -> Path:
    """A folder as `/input`: images by socket; listing: `socket` or `interface` for an `inputs.json` of that kind.

    json_files: names of further JSON inputs, by spaces.
    """
    items: list[dict[str, object]] = []
    for slug, volume in images.items():
        relative = Path("images") / slug
        write_image(folder / relative / f"{slug}-0001.mha", volume.array, volume.grid)
        items.append({"slug": slug, "relative_path": str(relative)})
    for name in json_files.split():
        (folder / name).write_text("{}")
        items.append({"slug": name.removesuffix(".json"), "relative_path": name})
    if listing:
        (folder / "inputs.json").write_text(json.dumps([{listing: item, "image": None} for item in items]))
    return folder


def dice(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    """Dice coefficient of what is not 0; 1 where both are empty."""
    both, either = np.count_nonzero((a != 0) & (b != 0)), np.count_nonzero(a) + np.count_nonzero(b)
    return 2.0 * both / either if either else 1.0


def files_below(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


#: A small grid with a lesion in its middle, as the tests of the command line use them.
GRID = grid_of((10, 11, 12))
LESION = ball(GRID, 3.5)


def write_isles22_platform(folder: Path, listing: str | None = None) -> Path:
    """GRID and LESION as the platform hands over a case of ISLES'22."""
    volumes = isles22_volumes(LESION, GRID)
    return write_platform(folder, {f"{name}-brain-mri": volume for name, volume in volumes.items()}, listing)


def options(tmp_path: Path, weights: Path) -> tuple[object, ...]:
    """Where the command line reads and writes in these tests."""
    return ("-i", tmp_path / "input", "-o", tmp_path / "output", "--weights", weights, "--device", "cpu")


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


#: A grid that is neither cubic, nor at the origin, nor along the axes.
SKEWED = grid_of((5, 6, 7), (3.0, 1.25, 0.75), (-12.5, 40.0, 7.25), rotated(IDENTITY, (20.0, -10.0, 35.0)))


def close(found: Grid, expected: Grid) -> bool:
    """Whether two grids agree to what NIfTI's float32 holds."""
    return found.size_zyx == expected.size_zyx and np.allclose(found.corners(), expected.corners(), atol=1e-3)

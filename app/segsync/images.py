"""Image files: read by their format's reader, judged the same for all formats; written whole or not at all.

MetaImage (.mha, .mhd), NIfTI (.nii, .nii.gz), NRRD (.nrrd), TIFF (.tif, .tiff), and DICOM: a folder with one series, or
a file that holds a whole one.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync.atomic import part_of, whole_file
from segsync.errors import InputError, OutputError, ResourceError, os_errors
from segsync.geometry import Grid, Volume
from segsync.readers import dicom, diffusion, metaimage, nifti, nrrd, tiff
from segsync.readers.stored import Matrix, Stored

#: Endings of the image files that are read; written are the first three.
SUFFIXES = (".mha", ".nii.gz", ".nii", ".mhd", ".tif", ".tiff", ".nrrd")
WRITABLE = SUFFIXES[:3]
#: The usual ending of DICOM files, which are told by their content.
DCM = ".dcm"

#: How far the columns of a direction may be from orthonormal (NIfTI stores float32).
ORTHONORMAL_TOLERANCE = 1e-3
#: Axes turned by more than this to stand at right angles are no longer the image's.
SHEAR_DEGREES = 5.0
#: Millimetres along the longest axis; beyond them lies a spacing in another unit.
FIELD_OF_VIEW_MM = (1.0, 2000.0)
#: Millimetres along the second longest axis: no scanner's bore is wider, but mosaics of slices are.
BORE_MM = 850.0
#: Beyond a kilometre the 32-bit numbers of a header no longer tell voxels apart.
FARTHEST_MM = 1e6
#: What the files of git-annex and Git LFS begin with while their content is elsewhere, and how long they can be.
ANNEX, LFS = b"/annex/objects/", b"version https://git-lfs"
POINTER = 1024
FETCH = " (git annex get, datalad get or git lfs pull)"

Reader = Callable[[Path], Stored]
READERS: dict[str, Reader] = {
    ".mha": metaimage.read,
    ".mhd": metaimage.read,
    ".nii.gz": nifti.read,
    ".nii": nifti.read,
    ".tif": tiff.read,
    ".tiff": tiff.read,
    ".nrrd": nrrd.read,
}


def suffix_of(path: Path) -> str:
    """The ending that names the file's format, lower case (`.nii.gz` as one), or '' if it is not one of SUFFIXES."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """The file's name without its image suffix, or `.dcm`."""
    suffix = suffix_of(path) or (DCM if path.name.lower().endswith(DCM) else "")
    return path.name[: -len(suffix)] if suffix else path.name


def holds_dicom(folder: Path) -> bool:
    """Whether there are files of a DICOM series in a folder."""
    return dicom.holds_series(folder)


def may_be_series(path: Path) -> bool:
    """Whether an image may be a diffusion series with its b-values: DICOM, or a file with its `.bval` beside it."""
    return dicom.is_dicom(path) or diffusion.bvalues_file(path) is not None


def read(path: Path) -> Volume:
    """Read one scalar three-dimensional image; of a diffusion series with its b-values the trace image.

    Args:
        path: A file, or a folder with one DICOM series.

    Returns:
        The image as it is stored, on its grid.

    Raises:
        InputError: The file is unreadable or truncated, of another dimension, with several values a voxel, or with an
            impossible geometry (spacing not positive, directions far from orthonormal).
        ResourceError: Memory has ended.
    """
    _check_name(path, InputError)
    stored = _stored(path)
    if stored.array.ndim == 4 and stored.bvalues is not None:
        image, said = diffusion.trace(path, stored.array, stored.bvalues)
        stored = replace(stored, array=image, warnings=(*stored.warnings, said))
    return _volume(path, stored)


def read_adc(path: Path) -> Volume | None:
    """Compute the ADC map of a diffusion series with its b-values.

    Args:
        path: A file, or a folder with one DICOM series.

    Returns:
        In 10⁻⁶ mm²/s; None where the file is no such series.

    Raises:
        InputError: All b-values are one, and as `read` does.
        ResourceError: Memory has ended.
    """
    stored = _stored(path)
    if stored.array.ndim != 4 or stored.bvalues is None:
        return None
    image, said = diffusion.fitted_adc(path, stored.array, stored.bvalues)
    return _volume(path, replace(stored, array=image, warnings=(*stored.warnings, said)))


def _stored(path: Path) -> Stored:
    """What the format's reader makes of a file or folder; one of the system's or memory's faults is named."""
    with os_errors(InputError, path):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: expected an image file, found a link to a missing file; fetch it{FETCH}")
        if path.is_dir():
            reader: Reader = dicom.read
        elif not path.is_file():
            raise InputError(f"{path}: no image file; check the path")
        else:
            reader = _reader_of(path)
        try:
            return reader(path)
        except MemoryError as error:
            raise ResourceError(
                f"{path}: expected memory for its voxels, found too little; give the container more memory"
            ) from error


def _reader_of(path: Path) -> Reader:
    """The reader of a file's format; raises InputError where the file cannot be one of any."""
    suffix = suffix_of(path)
    if not suffix:
        if dicom.is_dicom(path):
            return dicom.read
        raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}, found another ending; convert the image")
    if not os.access(path, os.R_OK):
        raise InputError(
            f"{path}: expected a {suffix} image, found a file that may not be read; change its permissions"
        )
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: expected a {suffix} image, found an empty file (0 bytes); copy it again")
    with path.open("rb") as file:
        start = file.read(len(LFS))
    if start.startswith((LFS, ANNEX)) and size < POINTER:
        raise InputError(
            f"{path}: expected a {suffix} image, found the pointer to one that was not fetched; fetch it{FETCH}"
        )
    return READERS[suffix]


def _check_name(path: Path, kind: type[InputError | OutputError]) -> None:
    """ITK ends the process at a name that is no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise kind(f"{path}: expected a name in UTF-8, found other bytes in it; rename the file or folder") from error


def _volume(path: Path, stored: Stored) -> Volume:
    """What a file says, judged: one volume, of a geometry that a patient can have."""
    array = stored.array
    shape = "×".join(str(side) for side in reversed(array.shape))
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3:
        more = ", or the b-values of a diffusion series beside it as .bval" if array.ndim == 4 else ""
        raise InputError(f"{path}: expected a 3D image, found {array.ndim}D ({shape}); give one volume a file{more}")
    spacing = tuple(float(mm) for mm in stored.spacing)
    if len(spacing) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise InputError(f"{path}: expected a positive voxel spacing in mm, found {spacing}; correct the header")
    if not np.all(np.abs(stored.origin) <= FARTHEST_MM):  # nor is NaN
        raise InputError(
            f"{path}: expected an origin within a kilometre of the scanner's, in mm, found {stored.origin.tolist()}; "
            "correct the header"
        )
    _, wide, longest = sorted(side * mm for side, mm in zip(reversed(array.shape), spacing, strict=True))
    if not FIELD_OF_VIEW_MM[0] <= longest <= FIELD_OF_VIEW_MM[1]:
        raise InputError(
            f"{path}: expected a voxel spacing in mm, found {spacing}, which makes {longest:.3g} mm of {shape} voxels; "
            "correct the header"
        )
    if wide > BORE_MM:
        raise InputError(
            f"{path}: expected an image as wide as a scanner's bore at most, found {longest:.0f} × {wide:.0f} mm; give "
            "its slices apart where they lie in one picture (a mosaic), or correct the voxel spacing"
        )
    direction, origin, said = _upright(path, stored, array.shape)
    if 1 in array.shape:
        said = (*said, f"a single slice ({shape}), of which a network that looks at volumes makes little")
    x, y, z = spacing
    depth, height, width = array.shape
    grid = Grid(
        (depth, height, width),
        (z, y, x),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(float(cosine) for cosine in direction.ravel()),
    )
    return Volume(array, grid, (*stored.warnings, *said))


def _upright(path: Path, stored: Stored, shape: Sequence[int]) -> tuple[Matrix, Matrix, tuple[str, ...]]:
    """Directions at right angles and the origin that goes with them: of a sheared image the nearest, with a warning.

    Each voxel keeps its place in the array, the middle of the image its place in the patient.
    """
    sheared = stored.direction
    found = " ".join(f"{cosine:.4g}" for cosine in sheared.ravel())
    if not np.isfinite(sheared).all():
        raise InputError(f"{path}: expected orthonormal axis directions, found {found}; correct the header")
    if np.abs(sheared.T @ sheared - np.eye(3)).max() <= ORTHONORMAL_TOLERANCE:
        return sheared, stored.origin, ()
    left, lengths, right = np.linalg.svd(sheared)
    nearest = left @ right
    cosines = np.clip((nearest * sheared).sum(axis=0) / np.maximum(np.linalg.norm(sheared, axis=0), 1e-9), -1, 1)
    if lengths.min() < 1e-3 or math.degrees(math.acos(float(cosines.min()))) > SHEAR_DEGREES:
        raise InputError(
            f"{path}: expected orthonormal axis directions, found sheared ones ({found}); resample the image, for "
            "instance with mri_convert or flirt -applyxfm"
        )
    middle = (np.array(shape[::-1]) - 1) / 2 * stored.spacing
    corners = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) * middle
    apart = float(np.linalg.norm(corners @ (nearest - sheared).T, axis=1).max())
    said = (
        f"the header shears the image: its axes are taken at right angles, which moves its corners by {apart:.1f} mm; "
        "the mask has the image's voxels"
    )
    return nearest, stored.origin + (sheared - nearest) @ middle, (said,)


def write(array: npt.NDArray[np.generic], grid: Grid, path: Path) -> None:
    """Write an array on its grid, compressed; the file appears whole under its name or not at all.

    Args:
        array: (Z, Y, X).
        grid: Its place in space.
        path: The file; its ending says the format.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    suffix = suffix_of(path)
    if suffix not in WRITABLE:
        raise OutputError(f"{path}: expected an ending of {', '.join(WRITABLE)}, found another; choose one of these")
    _check_name(path, OutputError)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    try:
        with whole_file(path, suffix=suffix) as part:
            sitk.WriteImage(image, str(part), useCompression=suffix != ".nii")
            # A full disk is not always an error of the image library: what was written is read back before it counts.
            written = sitk.GetArrayFromImage(sitk.ReadImage(str(part)))
            if not np.array_equal(written, array, equal_nan=array.dtype.kind == "f"):
                raise OutputError(f"{path}: what was written reads back differently; free disk space and run again")
    except RuntimeError as error:
        raise OutputError(f"{path}: expected to write the image, found {_why_not(path)}") from error
    except OSError as error:
        raise OutputError(
            f"{path}: expected to write the image, found {error.strerror}; choose another folder"
        ) from error


def _why_not(path: Path) -> str:
    longest = os.pathconf(path.parent, "PC_NAME_MAX")
    if len(os.fsencode(part_of(path, ".nii.gz").name)) > longest:
        return f"a name too long for the disk ({longest} bytes); rename the case"
    if not os.access(path.parent, os.W_OK):
        return "no permission to write there; choose another folder"
    disk = os.statvfs(path.parent)
    return f"{disk.f_bavail * disk.f_frsize / 2**20:.1f} MiB free on the disk; free some space or choose another folder"

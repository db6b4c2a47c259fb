"""Image files: read with every check, written whole or not at all.

MetaImage (.mha), NIfTI (.nii, .nii.gz), NRRD (.nrrd), TIFF (.tif, .tiff) and folders with one DICOM series.
"""

import contextlib
import gzip
import logging
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync.errors import OUT_OF_MEMORY, InputError, OutputError, ResourceError
from segsync.geometry import Grid, Volume

log = logging.getLogger(__name__)

#: Endings of the image files that are read; written are the first three.
SUFFIXES = (".mha", ".nii.gz", ".nii", ".tif", ".tiff", ".nrrd")
WRITABLE = SUFFIXES[:3]

#: How far the columns of a direction may be from orthonormal (NIfTI stores float32).
ORTHONORMAL_TOLERANCE = 1e-3
#: No deflate stream is denser: a header that promises more voxels than this is wrong.
DEFLATE_LIMIT = 1032
#: Bytes at the start of a .mha in which its header must end.
METAIMAGE_HEADER = 8192
#: Where a DICOM slice lies: Image Position (Patient).
SLICE_POSITION = "0020|0032"
#: How far the steps between slices may differ, as a share of their median.
UNEVEN_SLICES = 0.1
#: Angle between the way from the first slice to the last and the slices' normal: from here on it is a tilted gantry.
TILT_DEGREES = 0.5


def suffix_of(path: Path) -> str:
    """The ending that names the file's format, lower case (`.nii.gz` as one), or '' where it is none of SUFFIXES."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """The file's name without its image suffix."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.name


def read(path: Path) -> Volume:
    """Read one scalar three-dimensional image, a file or a folder with one DICOM series.

    Raises InputError where the file is unreadable or truncated, of another dimension, with several values a voxel, or
    with a geometry that is none (spacing not positive, directions not orthonormal); ResourceError without memory.
    """
    _check_name(path, InputError)
    # Warnings of the image library go straight to the terminal; what matters is checked and raised here.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.is_dir():
        return _read_dicom(path)
    if not path.is_file():
        raise InputError(f"{path}: expected an image file, found none; check the path")
    suffix = suffix_of(path)
    if not suffix:
        raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}, found another ending; convert the image")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: expected a {suffix} image, {_unreadable(path, error)}") from error
    _check_header(path, reader)
    _check_length(path, suffix, reader)
    if suffix in (".tif", ".tiff"):
        log.warning(
            "%s: TIFF holds no patient geometry; voxels are taken as its header's spacing without position", path
        )
    try:
        image = reader.Execute()
    except RuntimeError as error:
        # Of a NIfTI whose length is right ITK says no more than that it could not be loaded.
        if OUT_OF_MEMORY.search(str(error)) or "nifti_image_load" in str(error):
            voxels = "×".join(str(side) for side in reader.GetSize())
            raise ResourceError(
                f"{path}: expected memory for {voxels} voxels, found too little; give the container more memory"
            ) from error
        raise InputError(f"{path}: expected a whole {suffix} image, {_unreadable(path, error)}") from error
    return _volume(image)


def _check_name(path: Path, kind: type[InputError | OutputError]) -> None:
    """ITK ends the process at a name that is no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise kind(f"{path}: expected a name in UTF-8, found other bytes in it; rename the file or folder") from error


def _volume(image: sitk.Image) -> Volume:
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    return Volume(sitk.GetArrayFromImage(image), Grid.of(image))


def _unreadable(path: Path, error: RuntimeError) -> str:
    size = path.stat().st_size
    if not os.access(path, os.R_OK):
        return "found a file that may not be read; change its permissions"
    if size == 0:
        return "found an empty file (0 bytes); copy it again"
    reason = re.sub(r"\(0x[0-9a-f]+\)", "", str(error)).strip().splitlines()[-1]
    reason = re.sub(r"^.*(ITK|sitk::) ?ERROR:\s*", "", reason)
    return f"found {size} bytes that are none ({reason}); copy or convert it again"


def _check_header(path: Path, reader: sitk.ImageFileReader) -> None:
    size, spacing = reader.GetSize(), reader.GetSpacing()
    shape = "×".join(str(side) for side in size)
    if len(size) == 4 and size[3] == 1:
        size, spacing = size[:3], spacing[:3]
    if len(size) != 3:
        raise InputError(f"{path}: expected a 3D image, found {len(size)}D ({shape}); give one volume a file")
    if reader.GetNumberOfComponents() != 1:
        found = reader.GetNumberOfComponents()
        raise InputError(f"{path}: expected one value a voxel, found {found} (colour or vector); convert the image")
    if min(size) < 1:
        raise InputError(f"{path}: expected voxels along every axis, found {shape}; convert the image again")
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise InputError(f"{path}: expected a positive voxel spacing in mm, found {spacing}; correct the header")
    n = reader.GetDimension()
    matrix = np.asarray(reader.GetDirection()).reshape(n, n)[:3, :3]
    if not np.isfinite(matrix).all() or np.abs(matrix.T @ matrix - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        found = " ".join(f"{v:.4g}" for v in matrix.ravel())
        raise InputError(f"{path}: expected orthonormal axis directions, found {found}; resample the sheared image")
    if not all(math.isfinite(mm) for mm in reader.GetOrigin()):
        raise InputError(f"{path}: expected a finite origin in mm, found {reader.GetOrigin()}; correct the header")


def _check_length(path: Path, suffix: str, reader: sitk.ImageFileReader) -> None:
    """Compare the header's promise with the bytes that are there: ITK fills a cut NIfTI silently."""
    voxels, size = math.prod(reader.GetSize()), path.stat().st_size
    if suffix in (".nii", ".nii.gz"):
        # As stored: what a slope scales is read as float32 or float64, whatever lies in the file.
        needed = voxels * int(reader.GetMetaData("bitpix")) // 8
        whole = suffix == ".nii" or needed > size * DEFLATE_LIMIT
        held = (size if whole else _inflated_size(path)) - int(float(reader.GetMetaData("vox_offset")))
    elif suffix == ".mha":
        needed = voxels * _bytes_per_voxel(reader.GetPixelID())
        held = _metaimage_body(path, needed)
    else:
        return
    if held < needed:
        raise InputError(
            f"{path}: expected the {needed} bytes of voxels that its header promises, found {max(0, held)}; "
            "the file is cut: copy it again"
        )


def _metaimage_body(path: Path, needed: int) -> int:
    """Bytes of voxels in a .mha, inflated where they are compressed: ITK takes a broken stream for an image."""
    with path.open("rb") as file:
        start = file.read(METAIMAGE_HEADER)
        end = re.search(rb"ElementDataFile *= *LOCAL *\r?\n", start)
        if end is None:
            raise InputError(
                f"{path}: expected a .mha with its voxels inside, found a reference to a second file; convert it"
            )
        body = path.stat().st_size - end.end()
        if not re.search(rb"CompressedData *= *True", start[: end.start()]) or needed > body * DEFLATE_LIMIT:
            return body
        file.seek(end.end())
        inflate, total = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
        try:
            while not inflate.eof and (block := file.read(1 << 16)):
                total += len(inflate.decompress(block))
        except zlib.error as error:
            raise InputError(f"{path}: expected whole compressed voxels, found {error}; copy it again") from error
        return total


def _bytes_per_voxel(pixel_id: int) -> int:
    wide = {sitk.sitkInt16: 2, sitk.sitkUInt16: 2, sitk.sitkInt32: 4, sitk.sitkUInt32: 4, sitk.sitkFloat32: 4}
    return wide.get(pixel_id, 8 if pixel_id in (sitk.sitkFloat64, sitk.sitkInt64, sitk.sitkUInt64) else 1)


def _inflated_size(path: Path) -> int:
    total = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 22):
                total += len(block)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: expected a whole gzip file, found {error}; copy it again") from error
    return total


def _read_dicom(folder: Path) -> Volume:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = "no DICOM files" if not series else f"{len(series)} series"
        raise InputError(f"{folder}: expected the files of one DICOM series, found {found}; give one folder a series")
    reader = sitk.ImageSeriesReader()
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{folder}: expected a readable DICOM series, found: {reason}; convert it to NIfTI") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{folder}: expected one 3D grey-value series, found another kind; give the image series")
    _check_slices(folder, reader, len(names), Grid.of(image).matrix[:, 2])
    return _volume(image)


def _check_slices(folder: Path, reader: sitk.ImageSeriesReader, count: int, normal: npt.NDArray[np.float64]) -> None:
    """Slices that lack one among them, lie twice, or are sheared: ITK stacks them evenly along their normal."""
    found = [reader.GetMetaData(n, SLICE_POSITION) for n in range(count) if reader.HasMetaDataKey(n, SLICE_POSITION)]
    if len(found) < 2:
        return
    places = np.array([[float(mm) for mm in place.split("\\")] for place in found])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    if np.ptp(steps) > UNEVEN_SLICES * np.median(steps) or steps.min() == 0:
        raise InputError(
            f"{folder}: expected evenly spaced slices, found steps of {steps.min():.2f} to {steps.max():.2f} mm; "
            "add the missing slice, or give one volume a folder"
        )
    along = (places[-1] - places[0]) / np.linalg.norm(places[-1] - places[0])
    tilt = math.degrees(math.acos(min(1.0, abs(float(along @ normal)))))
    if tilt > TILT_DEGREES:
        raise InputError(
            f"{folder}: expected slices stacked along their normal, found a gantry tilt of {tilt:.1f} degrees; convert "
            "the series with dcm2niix, which takes the tilt out"
        )


def write(array: npt.NDArray[np.generic], grid: Grid, path: Path) -> None:
    """Write an array (Z, Y, X) on its grid, compressed; the file appears whole under its name or not at all.

    Raises OutputError where the folder cannot be written or the disk is full.
    """
    suffix = suffix_of(path)
    if suffix not in WRITABLE:
        raise OutputError(f"{path}: expected an ending of {', '.join(WRITABLE)}, found another; choose one of these")
    _check_name(path, OutputError)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    part = path.with_name(f".{path.name}.{os.getpid()}.part{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(part), useCompression=suffix != ".nii")
        # A full disk is not always an error of the image library: what was written is read back before it counts.
        if not np.array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(part))), array, equal_nan=array.dtype.kind == "f"
        ):
            raise OutputError(f"{path}: what was written reads back differently; free disk space and run again")
        part.replace(path)
    except RuntimeError as error:
        raise OutputError(f"{path}: expected to write the image, found {_why_not(path)}") from error
    except OSError as error:
        raise OutputError(
            f"{path}: expected to write the image, found {error.strerror}; choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _why_not(path: Path) -> str:
    if not os.access(path.parent, os.W_OK):
        return "no permission to write there; choose another folder"
    disk = os.statvfs(path.parent)
    return f"{disk.f_bavail * disk.f_frsize / 2**20:.1f} MiB free on the disk; free some space or choose another folder"

"""Image files: read with every check, written whole or not at all.

MetaImage (.mha), NIfTI (.nii, .nii.gz), NRRD (.nrrd), TIFF (.tif, .tiff) and folders with one DICOM series.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from segsync.atomic import part_of, whole_file
from segsync.errors import OUT_OF_MEMORY, InputError, OutputError, ResourceError, os_errors
from segsync.geometry import Grid, Volume
from segsync.integrity import check_whole, is_gzip, nifti_spacing

#: Endings of the image files that are read; written are the first three.
SUFFIXES = (".mha", ".nii.gz", ".nii", ".tif", ".tiff", ".nrrd")
WRITABLE = SUFFIXES[:3]

#: How far the columns of a direction may be from orthonormal (NIfTI stores float32).
ORTHONORMAL_TOLERANCE = 1e-3
#: Millimetres along the longest axis; beyond them lies a spacing in another unit.
FIELD_OF_VIEW_MM = (1.0, 2000.0)
#: A NIfTI's two placements of its voxels are one where they agree to so many millimetres.
SAME_PLACE_MM = 1.0
#: Where a DICOM slice lies: Image Position (Patient).
SLICE_POSITION = "0020|0032"
#: How far the steps between slices may differ, as a fraction of their median.
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


def holds_dicom(folder: Path) -> bool:
    """Whether there are files of a DICOM series in a folder."""
    return bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def read(path: Path) -> Volume:
    """Read one scalar three-dimensional image, a file or a folder with one DICOM series.

    Raises InputError where the file is unreadable or truncated, of another dimension, with several values a voxel, or
    with a geometry that is none (spacing not positive, directions not orthonormal); ResourceError without memory.
    """
    with os_errors(InputError, path):
        return _read(path)


def _read(path: Path) -> Volume:
    _check_name(path, InputError)
    # Warnings of the image library go straight to the terminal; what matters is checked and raised here.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if path.is_dir():
        return _read_dicom(path)
    if not path.is_file():
        raise InputError(f"{path}: expected an image file, found none; check the path")
    suffix = suffix_of(path)
    if not suffix:
        advice = "give the folder of its series" if path.suffix.lower() == ".dcm" else "convert the image"
        raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}, found another ending; {advice}")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if suffix == ".mha" and not path.name.endswith(suffix):
        reader.SetImageIO("MetaImageIO")  # of itself it takes no upper case
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: expected a {suffix} image, {_unreadable(path, error)}") from error
    _check_header(path, reader)
    check_whole(path, suffix, reader)
    _check_extent(path, reader)
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
    volume = _volume(image)
    return replace(volume, warnings=tuple(_doubts(suffix, reader, volume.grid)))


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


def _doubts(suffix: str, reader: sitk.ImageFileReader, grid: Grid) -> Iterator[str]:
    """What of a header's geometry is not to be trusted, though it can be read."""
    if suffix in (".tif", ".tiff"):
        yield "TIFF holds no patient geometry: neither place nor orientation, and a slice spacing of 1 mm"
    if suffix in (".nii", ".nii.gz") and _two_placements(reader):
        rows = np.array([[float(value) for value in reader.GetMetaData(f"srow_{axis}").split()] for axis in "xyz"])
        z, y, x = (side - 1 for side in grid.size_zyx)
        corners = np.array([(i, j, k, 1) for k in (0, z) for j in (0, y) for i in (0, x)])
        by_sform = corners @ rows.T * (-1, -1, 1)  # NIfTI's x points to the right and its y to the front
        apart = float(np.linalg.norm(by_sform - grid.corners(), axis=1).max())
        if apart > SAME_PLACE_MM:
            yield (
                f"qform and sform place the image up to {apart:.0f} mm apart; the qform is used, and software that "
                "prefers the sform will show the mask elsewhere"
            )


def _two_placements(reader: sitk.ImageFileReader) -> bool:
    """Whether a NIfTI has both a qform and an sform, in mm: of other units ITK scales the spacing alone."""
    unit = int(reader.GetMetaData("xyzt_units")) % 8
    return unit in (0, 2) and all(int(reader.GetMetaData(f"{form}_code")) > 0 for form in ("sform", "qform"))


def _unreadable(path: Path, error: RuntimeError) -> str:
    size = path.stat().st_size
    if not os.access(path, os.R_OK):
        return "found a file that may not be read; change its permissions"
    if size == 0:
        return "found an empty file (0 bytes); copy it again"
    reason = re.sub(r"\(0x[0-9a-f]+\)", "", str(error)).strip().splitlines()[-1]
    reason = re.sub(r"^.*(ITK|sitk::) ?ERROR:\s*", "", reason)
    ending = path.name[-len(suffix_of(path)) :]
    if ".nii" in ending.lower() and ending not in (ending.lower(), ending.upper()):
        return f"found the ending {ending}; write it in lower case"
    if ending.lower() == ".nii" and is_gzip(path):
        return "found a compressed file; name it .nii.gz"
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
    if ".nii" in suffix_of(path):
        # ITK reads a spacing of 0, or of no number, as 1; of one below 0 it takes the size.
        stored = nifti_spacing(path)
        spacing = spacing if all(mm and math.isfinite(mm) for mm in stored) else stored
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise InputError(f"{path}: expected a positive voxel spacing in mm, found {spacing}; correct the header")
    n = reader.GetDimension()
    matrix = np.asarray(reader.GetDirection()).reshape(n, n)[:3, :3]
    if not np.isfinite(matrix).all() or np.abs(matrix.T @ matrix - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        found = " ".join(f"{v:.4g}" for v in matrix.ravel())
        raise InputError(f"{path}: expected orthonormal axis directions, found {found}; resample the sheared image")
    if not all(math.isfinite(mm) for mm in reader.GetOrigin()):
        raise InputError(f"{path}: expected a finite origin in mm, found {reader.GetOrigin()}; correct the header")


def _check_extent(path: Path, reader: sitk.ImageFileReader) -> None:
    size, spacing = reader.GetSize()[:3], reader.GetSpacing()[:3]
    longest = max(side * mm for side, mm in zip(size, spacing, strict=True))
    if not FIELD_OF_VIEW_MM[0] <= longest <= FIELD_OF_VIEW_MM[1]:
        shape = "×".join(str(side) for side in size)
        raise InputError(
            f"{path}: expected a voxel spacing in mm, found {spacing}, which makes {longest:.3g} mm of {shape} voxels; "
            "correct the header"
        )


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

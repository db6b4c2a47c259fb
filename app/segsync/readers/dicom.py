"""A folder with one DICOM series, or a file with all of it: classic slices or enhanced multi-frame, parsed by pydicom.

pydicom reads from memory, where no length that a file claims can be longer than the file. Pixels that are compressed
are decoded in a child process.
"""

import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError
from segsync.readers.decoder import MOST_BYTES, decode
from segsync.readers.slices import Slice, stack
from segsync.readers.stored import Stored, understood
from segsync.readers.stream import DEFLATE_LIMIT

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

#: Where a DICOM file is marked, and with what.
MARK_AT, MARK = 128, b"DICM"
#: The name that the standard (PS3.10) keeps for the index of a medium's files.
INDEX = "DICOMDIR"
#: How a file without the mark begins: with an element of the group 0002 or 0008, little or big endian.
UNMARKED = (b"\x02\x00\x00\x00", b"\x08\x00", b"\x00\x08")
#: The transfer syntax of a file that is deflated from its meta information on, and that of the same file inflated.
DEFLATED, INFLATED = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
#: How the meta information begins: its own length in bytes follows.
META = b"\x02\x00\x00\x00UL\x04\x00"
#: How many bytes one of a deflated file may hold; images are deflated to a half.
DENSITY = 64
#: Siemens' number of images in a mosaic, which export keeps where it rewrites Image Type.
MOSAIC_COUNT = (0x0019, 0x100A)
#: How far the directions of rows and columns may be from orthonormal, in digits that were rounded.
SQUARE = 0.01
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_dicom(path: Path) -> bool:
    """Whether images are read from here as DICOM: a folder, or a file that begins so."""
    return path.is_dir() or (path.is_file() and os.access(path, os.R_OK) and looks_like_dicom(path))


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does."""
    with path.open("rb") as file:
        start = file.read(MARK_AT + len(MARK))
    return start[MARK_AT:] == MARK or start.startswith(UNMARKED)


def files_in(folder: Path) -> list[Path]:
    """The visible files of a folder, links to what is not there among them, without the index of a medium."""
    files = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name.upper() != INDEX)
    return sorted(path for path in files if not path.is_dir())


def read(folder: Path) -> Stored:
    """Read the one series in a folder, or in a file of many frames.

    Args:
        folder: Of its files.

    Returns:
        The series, not yet judged.

    Raises:
        InputError: The folder holds no series or several, a file that should be a slice cannot be read, the geometry is
            not stored, or slices are missing.
    """
    datasets = series(folder)
    slices: list[Slice] = []
    for path, dataset in datasets.items():
        with understood(path, "a DICOM image"):
            slices += slices_of(path, dataset, len(slices))
    return stack(folder, slices, _pixels(folder, datasets, len(slices)))


def series(folder: Path) -> dict[Path, "FileDataset"]:
    """The images of the one series in a folder or file, by file; raises InputError as `read` does."""
    files = files_in(folder) if folder.is_dir() else [folder]
    images: dict[Path, FileDataset] = {}
    lost: dict[Path, str] = {}  # with the series that each says it is of
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: expected a file, found a link to a missing file; fetch it (git annex get)")
        if not looks_like_dicom(path):
            lost[path] = ""
            continue
        dataset = _parsed(path)
        if any(name in dataset for name in PIXELS) and "Rows" in dataset:
            images[path] = dataset
        else:
            lost[path] = str(dataset.get("SeriesInstanceUID", ""))
    found = {str(dataset.get("SeriesInstanceUID", "")) for dataset in images.values()}
    if len(found) != 1:
        none = f"{len(lost)} files without an image" if lost else "no DICOM files"
        what = f"{len(found)} series" if found else none
        raise InputError(f"{folder}: expected the files of one DICOM series, found {what}; give one folder a series")
    if files == [folder] and "NumberOfFrames" not in images[folder]:
        raise InputError(f"{folder}: expected all slices of a series, found one; give the folder of its series")
    endings = {_ending(path) for path in images}
    for path, of in lost.items():
        if _ending(path) in endings and of in ("", *found):
            raise InputError(
                f"{path}: expected a slice of the series as the {len(images)} files beside it, found "
                f"{path.stat().st_size} bytes without an image; copy it again, or take the file out of the folder"
            )
    return images


def _ending(path: Path) -> str:
    """The ending that a series' files have in common: in names like 1.2.840.5 there is no ending."""
    return "" if path.suffix[1:].isdigit() else path.suffix.lower()


def _parsed(path: Path) -> "FileDataset":
    from pydicom import dcmread  # its import takes time that a start without DICOM need not spend

    with understood(path, "a DICOM file"):
        dataset = dcmread(io.BytesIO(_inflated(path, path.read_bytes())), force=True)
        # Elements are parsed as they are asked for: what is damaged shows now and not later.
        dataset.get("SeriesInstanceUID"), dataset.get("Rows")
    return dataset


def _inflated(path: Path, content: bytes) -> bytes:
    """A file as it was before it was deflated; pydicom would inflate it to whatever size."""
    start = MARK_AT + len(MARK)
    length = start + len(META) + 4
    if content[start : length - 4] != META:
        return content
    end = length + int.from_bytes(content[length - 4 : length], "little")
    meta = content[:end]
    if DEFLATED not in meta:
        return content
    most = min(MOST_BYTES, DENSITY * len(content))
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflate.decompress(content[end:], most)
    if not inflate.eof:
        what = f"more than {most >> 20} MiB" if inflate.unconsumed_tail else "its end missing"
        raise InputError(f"{path}: expected a deflated DICOM image, found {what}; copy it again, or convert it")
    return meta.replace(DEFLATED, INFLATED) + body


def _pixels(folder: Path, datasets: dict[Path, "FileDataset"], count: int) -> npt.NDArray[np.generic]:
    """Every plane (number, Y, X) as stored, in the order of the files."""
    from pydicom.pixels.utils import pixel_array

    kinds = {_kind(path, dataset) for path, dataset in datasets.items()}
    if len(kinds) != 1:
        raise InputError(f"{folder}: expected slices of one size and type, found {len(kinds)}; give one volume")
    [(rows, columns, allocated, _, _, compressed)] = kinds
    if compressed:
        promised, held = count * rows * columns * allocated // 8, sum(path.stat().st_size for path in datasets)
        if promised > held * DEFLATE_LIMIT:
            raise InputError(
                f"{folder}: expected the {promised} bytes of pixels that the headers promise, found {held}; "
                "the file is cut: copy it again"
            )
        planes = decode("dicom", list(datasets), promised, folder)
    else:
        found = []
        for path, dataset in datasets.items():
            with understood(path, "a DICOM image's pixels"):
                found.append(pixel_array(dataset, raw=True).reshape(-1, rows, columns))
        planes = np.concatenate(found)
    if planes.shape != (count, rows, columns):
        raise InputError(f"{folder}: expected {count} slices of pixels, found {len(planes)}; copy the series again")
    return _meant(planes, next(iter(datasets.values())))


def _kind(path: Path, dataset: "FileDataset") -> tuple[int, int, int, int, int, bool]:
    with understood(path, "a DICOM image"):
        if "TransferSyntaxUID" not in dataset.file_meta:
            from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

            implicit, little = dataset.original_encoding
            plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
        if dataset.get("SamplesPerPixel", 1) != 1 or "PALETTE" in str(dataset.get("PhotometricInterpretation", "")):
            raise InputError(f"{path}: expected grey values, found colours; give the image series")
        if dataset.BitsAllocated not in (8, 16, 32, 64):
            raise InputError(
                f"{path}: expected whole bytes a pixel, found {dataset.BitsAllocated} bits; give the image series"
            )
        stored = dataset.get("BitsStored", dataset.BitsAllocated)
        return (
            int(dataset.Rows),
            int(dataset.Columns),
            int(dataset.BitsAllocated),
            int(stored),
            int(dataset.get("PixelRepresentation", 0)),
            bool(dataset.file_meta.TransferSyntaxUID.is_encapsulated),
        )


def _meant(planes: npt.NDArray[np.generic], dataset: "FileDataset") -> npt.NDArray[np.generic]:
    """Without the bits beside the stored ones, in which old scanners keep overlays."""
    if planes.dtype.kind == "f":
        return planes
    bits = 8 * planes.dtype.itemsize
    stored = int(dataset.get("BitsStored", bits))
    high = int(dataset.get("HighBit", stored - 1))
    if not 0 < stored <= high + 1 <= bits or stored == bits:
        return planes
    shifted: npt.NDArray[np.generic] = np.right_shift(np.left_shift(planes, bits - 1 - high), bits - stored)
    return shifted


def slices_of(path: Path, dataset: "FileDataset", before: int) -> Iterator[Slice]:
    """The planes of one file, numbered on from `before`; raises InputError where one has no place."""
    if "MOSAIC" in dataset.get("ImageType", ()) or MOSAIC_COUNT in dataset:
        raise InputError(
            f"{path}: expected a slice, found a Siemens mosaic of many; convert the series with dcm2niix, which knows "
            "where they lie"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is None and frames > 1:
        raise InputError(
            f"{path}: expected slices with a place each, found {frames} frames without one; convert the series"
        )
    if groups is not None and len(groups) != frames:
        raise InputError(f"{path}: expected the places of {frames} frames, found {len(groups)}; copy the file again")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    for number in range(frames):
        where = [groups[number], *(shared or [])] if groups is not None else []
        yield _slice(path, dataset, where, before + number)


def _slice(path: Path, dataset: "FileDataset", groups: "list[Dataset]", number: int) -> Slice:
    def told(sequence: str, name: str) -> Any:
        """A value of the frame's groups, then of those that all share; of a classic slice its own."""
        for group in groups:
            for item in group.get(sequence) or ():
                if item.get(name) is not None:
                    return item.get(name)
        return None if groups else dataset.get(name)

    def numbers(sequence: str, name: str, count: int) -> npt.NDArray[np.float64]:
        value = told(sequence, name)
        if value is None or isinstance(value, str | float | int) or len(value) != count:
            raise InputError(
                f"{path}: no {name} of {count} numbers; without it nobody can tell where the slice "
                "lies: export the series again, or convert it with dcm2niix and look at it"
            )
        found = np.array([float(number) for number in value])
        if not np.isfinite(found).all():
            raise InputError(f"{path}: expected {name} of finite numbers, found {found.tolist()}; export it again")
        return found

    axes = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > SQUARE:
        raise InputError(
            f"{path}: expected ImageOrientationPatient of two directions at right angles, found "
            f"{axes.ravel().tolist()}; export the series again"
        )
    rows_mm, columns_mm = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if not (rows_mm > 0 and columns_mm > 0):
        raise InputError(f"{path}: expected a positive pixel spacing in mm, found {rows_mm:g} and {columns_mm:g}")
    slope = told("PixelValueTransformationSequence", "RescaleSlope")
    intercept = told("PixelValueTransformationSequence", "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else float(slope), float(intercept or 0.0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise InputError(f"{path}: expected a rescale slope other than 0, found {slope:g}; export it again")
    b = told("MRDiffusionSequence", "DiffusionBValue")
    return Slice(
        position=numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        axes=axes,
        pixel=np.array([columns_mm, rows_mm]),
        number=number,
        slope=slope,
        intercept=intercept,
        thickness=float(told("PixelMeasuresSequence", "SliceThickness") or 0.0),
        spacing=float(told("PixelMeasuresSequence", "SpacingBetweenSlices") or 0.0),
        b=None if b is None else float(b),
        path=path,
    )


def holds_series(folder: Path) -> bool:
    """Whether a file of a folder begins as DICOM does."""
    return any(path.is_file() and os.access(path, os.R_OK) and looks_like_dicom(path) for path in files_in(folder))

"""DICOM files as scanners and archives write them, slice by slice or in one file, made by pydicom."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

CLASSIC, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
SERIES, STUDY, FRAME = "1.2.826.0.1.3680043.2.1125.7", "1.2.826.0.1.3680043.2.1125.8", "1.2.826.0.1.3680043.2.1125.9"
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def dataset(pixels: npt.NDArray[np.generic], number: int = 1, kind: str = CLASSIC) -> FileDataset:
    """A file of one plane or more, with no place yet."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(kind), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("slice", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = STUDY, SERIES, FRAME
    made.PatientID, made.PatientName, made.StudyID, made.AccessionNumber = "p", "p^p", "1", "1"
    made.PatientBirthDate = made.PatientSex = made.StudyDate = made.StudyTime = made.ReferringPhysicianName = ""
    made.Modality, made.InstanceNumber = "MR", number
    made.Rows, made.Columns = pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    return made


def classic(
    array: npt.NDArray[np.generic],
    places: Sequence[float],
    *,
    pixel: tuple[float, float] = (1.5, 1.25),
    slopes: Sequence[float] | None = None,
    intercepts: Sequence[float] | None = None,
) -> list[FileDataset]:
    """A slice a file, at these z; pixel: mm between rows, then columns."""
    files = []
    for number, (plane, z) in enumerate(zip(array, places, strict=True)):
        one = dataset(plane, number + 1)
        one.PixelSpacing, one.SliceThickness = list(pixel), 5.0
        one.ImageOrientationPatient, one.ImagePositionPatient = AXIAL, [-20.0, -10.0, float(z)]
        if slopes is not None:
            one.RescaleSlope = f"{slopes[number]:.8g}"
            one.RescaleIntercept = f"{intercepts[number] if intercepts else 0:g}"
        files.append(one)
    return files


def enhanced(
    array: npt.NDArray[np.generic], places: Sequence[float], bvalues: Sequence[float] | None = None
) -> FileDataset:
    """One file of many frames at these z, with a b-value each where they are given; 1.25 × 1.5 mm."""
    made = dataset(array, kind=ENHANCED)
    made.NumberOfFrames = len(array)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1.5, 1.25], 5.0
    orientation.ImageOrientationPatient = AXIAL
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, z in enumerate(places):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-20.0, -10.0, float(z)]
        frame.PlanePositionSequence = [position]
        if bvalues is not None:
            diffusion = Dataset()
            diffusion.DiffusionBValue = float(bvalues[number])
            frame.MRDiffusionSequence = [diffusion]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    return made


def save(folder: Path, files: Sequence[FileDataset]) -> Path:
    """The files in a folder, numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(files):
        one.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return folder


def compressed(one: FileDataset) -> FileDataset:
    """The same slice as run lengths, which pydicom encodes by itself."""
    one.compress(RLELossless)
    return one


def deflated(one: FileDataset) -> FileDataset:
    """The same slice, deflated behind its meta information as it is saved."""
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return one

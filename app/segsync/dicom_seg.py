"""A mask as a DICOM Segmentation object that refers to the series it was made of, by highdicom.

The object holds a plane for each slice of the source, at that slice's place, also where the image was resampled because
the step between slices changes or the gantry was tilted.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segsync.arrays import LabelMap
from segsync.atomic import whole_file
from segsync.errors import InputError, OutputError, UsageError
from segsync.geometry import Grid
from segsync.images import stem_of
from segsync.lesions import within
from segsync.predict import Result
from segsync.readers import dicom
from segsync.readers.slices import Slice
from segsync.tasks import TASKS
from segsync.versions import versions

log = logging.getLogger(__name__)

#: What hospitals' archives ask of a patient and a study and anonymised files may lack; they may be empty.
EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
#: Codes of SNOMED CT: what a challenge's labels are, and what those of a task of one's own are.
LESION = (("49755003", "SCT", "Morphologically Altered Structure"), ("52988006", "SCT", "Lesion"))
OTHER = (("85756007", "SCT", "Tissue"), ("85756007", "SCT", "Tissue"))


def check_installed() -> None:
    """Raise UsageError where highdicom is not there."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--dicom-seg: the package highdicom is missing; install the extra `dicom`: "
            "pip install 'segsync-isles[dicom]'"
        ) from error


def segmentation_path(mask: Path) -> Path:
    """Where the object of a mask goes, beside it."""
    return mask.with_name(f"{stem_of(mask)}_seg.dcm")


def write_segmentation(result: Result, path: Path) -> None:
    """Write the object, whole or not at all.

    Args:
        result: Of a case whose reference image came as a DICOM series.
        path: The object's file.

    Raises:
        InputError: The reference image is no DICOM series, or lacks what an object must say.
        OutputError: The file cannot be written.
    """
    source = result.case.channels.get(result.task.reference)
    if not isinstance(source, Path) or not dicom.is_dicom(source):
        raise InputError(
            f"{source if isinstance(source, Path) else f'case {result.case.name}'}: expected a DICOM series for "
            "--dicom-seg, found another image; leave the option out"
        )
    datasets = dicom.series(source)
    slices: list[Slice] = []
    for file, dataset in datasets.items():
        slices += dicom.slices_of(file, dataset, len(slices))
        for name in EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
    first = next(iter(datasets.values()))
    planes = _planes(result.mask, result.grid, slices, (int(first.Rows), int(first.Columns)))
    made = _segmentation(result, list(datasets.values()), planes)
    try:
        with whole_file(path) as part:
            made.save_as(part)
    except OSError as error:
        raise OutputError(f"{path}: expected to write the object, found {error.strerror}; free disk space") from error


def _planes(mask: LabelMap, grid: Grid, slices: list[Slice], shape: tuple[int, int]) -> LabelMap:
    """The mask at every slice (rows, columns) of the source, in the files' order.

    Of several slices at one place the last has it.
    """
    planes = np.zeros((len(slices), *shape), dtype=np.uint8)
    places: dict[float, tuple[int, npt.NDArray[np.float64]]] = {}
    for one in slices:
        along = (one.position - np.asarray(grid.origin)) @ grid.matrix  # mm along the mask's axes
        places[round(float(along[2]), 3)] = one.number, along / grid.spacing_xyz
    for number, place in places.values():
        x, y, z = np.rint(place).astype(int)
        rows, columns = (
            np.clip(start + np.arange(size), 0, side - 1)
            for start, size, side in ((y, shape[0], mask.shape[1]), (x, shape[1], mask.shape[2]))
        )
        planes[number] = mask[np.clip(z, 0, len(mask) - 1)][np.ix_(rows, columns)]
    return planes


def _segmentation(result: Result, sources: list[Any], planes: LabelMap) -> Any:
    import highdicom
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues
    from pydicom.sr.coding import Code

    version = versions()["segsync"]
    category, kind = (Code(*code) for code in (LESION if result.task.name in TASKS else OTHER))
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"3D-SegSync {result.bundle.spec.name}",
        family=Code("123110", "DCM", "Artificial Intelligence"),
        version=version,
    )
    spec = result.bundle.spec
    described = []
    # Segments may overlap, as regions do: a plane of 0 and 1 for each.
    pixels = np.stack([within(planes, value, spec.regions) for value in spec.labels], axis=-1).astype(np.uint8)
    for number, name in enumerate(spec.labels.values(), start=1):
        described.append(
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name[:64],
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    try:
        return highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=pixels,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=highdicom.UID(),
            series_number=1000,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="segsync-isles",
            manufacturer_model_name=result.bundle.spec.name,
            software_versions=version,
            device_serial_number="0",
            content_label="SEGSYNC",
            content_description="Research, not care",
            omit_empty_frames=bool(pixels.any()),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"case {result.case.name}: expected a series that a Segmentation can refer to, found that it cannot "
            f"({' '.join(str(error).split())[:200]}); leave --dicom-seg out"
        ) from error

"""Labelled cases from a folder: found, checked, divided, preprocessed by the runtime's own code, kept on the disk."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segsync.arrays import LabelMap
from segsync.bundle import ChannelSpec, PreprocessingSpec, load_bundle, load_bundle_spec
from segsync.clinical import read_clinical
from segsync.errors import InputError
from segsync.geometry import Grid, Volume, reordered, resample
from segsync.images import read
from segsync.pipeline import Case
from segsync.preprocess import prepare
from segsync.region_model import RegionModel
from segsync_train.config.run import CaseSpec
from segsync_train.data.adapters import DATASETS
from segsync_train.data.cases import IGNORED, LabelledCase, build_case, store_case
from segsync_train.data.formats import bids_cases, nnunet_cases
from segsync_train.data.layout import CaseFiles

log = logging.getLogger(__name__)

#: A label map lies on its image's grid where the corners agree to this fraction of a voxel.
SAME_PLACE_VOXELS = 0.1
#: BIDS' table of the participants of a data set.
PARTICIPANTS = "participants.tsv"
#: Label values are whole to this.
ROUNDING = 1e-3
#: Part of the cache's name: counted up when what is stored changes.
CACHE_FORMAT = 1


def find_cases(layout: str, folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
    """The cases of a folder of this layout; raises InputError where the folder or the layout does not exist."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder of cases; check data.folder")
    if layout not in LAYOUTS:
        raise InputError(f"data.layout: expected one of {', '.join(LAYOUTS)}, found {layout!r}")
    tables = participants(folder)
    found = LAYOUTS[layout](folder, channels)
    return [replace(case, clinical=(*case.clinical, *tables)) for case in found] if tables else found


def participants(folder: Path) -> list[Path]:
    """The tables `participants.tsv` of a data set."""
    return sorted({*folder.glob(PARTICIPANTS), *folder.glob(f"*/{PARTICIPANTS}")})


def case_of(files: CaseFiles, spec: PreprocessingSpec) -> Case:
    """A case as the runtime takes it, with what is known of the patient where the network reads numbers.

    Raises InputError if a file of clinical data cannot be read.
    """
    clinical: dict[str, object] = {}
    for path in files.clinical if spec.scalar_places else ():
        subject = files.subject_name
        clinical[path.name] = read_clinical(path, (files.name, subject, subject.removeprefix("sub-")))
    return Case(files.name, files.images, clinical)


def check_files(cases: Sequence[CaseFiles], channels: Sequence[ChannelSpec], folder: Path) -> None:
    """What can be seen without reading an image: there are cases, each with its label and its channels.

    Args:
        cases: Those found; one whose label is held back is passed over.
        channels: Those of the model.
        folder: Where they lie, for the message.

    Raises:
        InputError: Says what is missing.
    """
    cases = public(cases)
    if not cases:
        raise InputError(f"{folder}: no labelled cases; check data.folder and data.layout")
    needed = [channel.name for channel in channels if not channel.optional]
    for case in cases:
        if not case.label_files:
            count = sum(1 for other in cases if not other.label_files)
            raise InputError(
                f"{folder}: case {case.name}: no label map ({count} of {len(cases)} cases "
                "lack theirs); add it or take the case out"
            )
        for name in needed:
            if name not in case.images:
                raise InputError(
                    f"{folder}: case {case.name}: expected an image of the channel {name!r}, found "
                    f"{', '.join(case.images) or 'none'}; add it, or mark the channel optional"
                )


def public(cases: Sequence[CaseFiles]) -> list[CaseFiles]:
    """The cases whose labels are not held back."""
    return [case for case in cases if not case.held_back]


def prepare_case(files: CaseFiles, spec: CaseSpec, region_model: RegionModel | None = None) -> LabelledCase:
    """Read one case, check it, and bring it to the model's grid with the runtime's preprocessing.

    Args:
        files: The case's images and label map. Without labels (`check_files` refuses such a case where they are needed)
            it is background throughout.
        spec: Channels and grid, and the labels that are kept: those listed.
        region_model: What `spec.region_model` names, opened.

    Returns:
        The case, on the model's grid.

    Raises:
        InputError: The label is on another grid than the reference image, or holds a value that is not listed.
    """
    reference, case = spec.reference_channel, case_of(files, spec)
    grids: dict[str, Grid] = {}

    def load(name: str) -> Volume | None:
        volume = case.load(name)
        if volume is not None:
            grids[name] = volume.grid
        return volume

    with case.named_in_errors():
        prepared = prepare(load, spec, reference, region_model, case.metadata)
    for line in prepared.warnings:
        log.warning("%s: %s", files.name, line)
    labels = spec.label_set
    if not files.label_files or not labels.labels:
        background = np.zeros(prepared.grid.size_zyx, dtype=np.uint8)
        return build_case(files.name, prepared.array, background, prepared.tissue, spec.spacing_zyx)
    label = read_label(files, labels.labels)
    path = files.label_files[0]
    label = on_grid(path, label, files.images[reference], grids[reference])
    check_values(path, label, labels.known)
    mapped = labels_onto(label, prepared.grid, labels.values, labels.ignore)
    return build_case(files.name, prepared.array, mapped, prepared.tissue, spec.spacing_zyx)


def read_label(files: CaseFiles, labels: Mapping[int, str]) -> Volume:
    """A case's labels on their own grid, as the values of the settings.

    Masks are painted by the names in `labels`, in their order, later ones over earlier; a mask is where a value reaches
    half of the file's largest, so that smoothed masks (ATLAS v1.2) keep their size.

    Args:
        files: The case's label map or masks.
        labels: Values and names.

    Returns:
        The label map.

    Raises:
        InputError: A file is no label map, a value is not of the set, the masks are on different grids, or a name has
            no mask.
    """
    if files.label is not None:
        label = read_values(files.label)
        return _renamed(files.label, label, files.values) if files.values else label
    painted: Volume | None = None
    for value, name in labels.items():
        if name not in files.masks:
            raise InputError(
                f"case {files.name}: expected a mask of {name!r}, found {', '.join(sorted(files.masks)) or 'none'}; "
                "correct the names of the labels"
            )
        for path in files.masks[name]:
            mask = read(path)
            if painted is None:
                painted = Volume(np.zeros(mask.array.shape, np.uint8), mask.grid)
            mask = on_grid(path, mask, files.label_files[0], painted.grid)
            values = np.nan_to_num(np.asarray(mask.array, dtype=np.float32))
            if values.max() > 0:
                painted.array[values >= values.max() / 2] = value
    assert painted is not None
    return painted


def _renamed(path: Path, label: Volume, values: Mapping[int, int]) -> Volume:
    """A label map in the numbers of the settings; raises InputError where it holds a value that its set has not."""
    stored, places = np.unique(label.array, return_inverse=True)
    unknown = [value for value in stored.tolist() if value != 0 and value not in values]
    if unknown:
        raise InputError(
            f"{path}: expected the label values 0, {few(values)}, found {few(unknown)}; correct the file, or choose "
            "a layout whose values are the file's own"
        )
    numbers = np.array([values.get(value, 0) for value in stored.tolist()], dtype=np.uint8)
    return Volume(numbers[places].reshape(label.array.shape), label.grid)


def few(values: Iterable[float]) -> str:
    """Values for people, of many the first."""
    listed = list(values)
    return ", ".join([*(f"{value:g}" for value in listed[:10]), *(["…"] if len(listed) > 10 else [])])


def on_grid(path: Path, label: Volume, image: Path, expected: Grid) -> Volume:
    """A label map, mask or map voxel by voxel on the grid of the image it belongs to.

    The same voxels may be stored in another order of axes, and lie up to SAME_PLACE_VOXELS beside the image's: a qform
    and an sform, or an origin of two decimals, make no other image.

    Args:
        path: Of the label map, for the message.
        label: What it holds.
        image: Path of the image.
        expected: Its grid.

    Returns:
        The label map on `expected`.

    Raises:
        InputError: The grid is another.
    """
    array = reordered(label, expected, SAME_PLACE_VOXELS)
    if array is None:
        raise InputError(
            f"{path}: expected the grid of {image.name} ({expected.describe()}), found "
            f"{label.grid.describe()}{_moved(label.grid, expected)}; give label and image of one grid"
        )
    return Volume(np.ascontiguousarray(array), expected, label.warnings)


def read_values(path: Path) -> Volume:
    """A label map whose values are whole but for rounding, as whole numbers; voxels that are no number are 0.

    What is farther from whole numbers is left as it is, for the checks to name.
    """
    volume = read(path)
    if volume.array.dtype.kind != "f":
        return volume
    values = np.nan_to_num(volume.array, nan=0.0)
    whole = np.rint(values)
    return Volume(whole if np.abs(values - whole).max() <= ROUNDING else values, volume.grid, volume.warnings)


def check_values(path: Path, label: Volume, known: Collection[int]) -> None:
    """Raise InputError where a label map holds a value that is not listed."""
    unknown = [value for value in np.unique(label.array).tolist() if value != 0 and value not in known]
    if unknown:
        raise InputError(
            f"{path}: expected the label values 0, {few(known)}, found {few(unknown)}; add them to labels in the "
            "settings (or the one that marks what nobody labelled as ignore), or correct the file"
        )


def labels_onto(label: Volume, grid: Grid, values: Sequence[int], ignore: int | None = None) -> LabelMap:
    """A label map (Z, Y, X) on another grid, as places in `values` from 1: foreground where its fraction is a half.

    Each label, and the value `ignore`, which becomes IGNORED, is smoothed and interpolated as the images are, so that a
    coarse voxel holds what fills most of it.
    """
    places = list(enumerate(values, start=1)) + ([] if ignore is None else [(IGNORED, ignore)])
    best = np.zeros(grid.size_zyx, dtype=np.float32)
    total = np.zeros_like(best)
    mapped = np.zeros(grid.size_zyx, dtype=np.uint8)
    for place, value in places:
        fraction = resample(Volume((label.array == value).astype(np.float32), label.grid), grid, antialias=True)
        total += fraction
        mapped[fraction > best] = place
        np.maximum(best, fraction, out=best)
    mapped[total < 0.5] = 0
    return mapped


def _moved(one: Grid, other: Grid) -> str:
    if one.size_zyx == other.size_zyx and one.spacing_zyx == other.spacing_zyx:
        return f" at a place up to {np.abs(one.corners() - other.corners()).max():.3g} mm away"
    return ""


def build_cache(
    cases: Sequence[CaseFiles],
    spec: CaseSpec,
    cache: Path,
    *,
    threads: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Preprocess the cases that are not in the cache yet.

    Runs with the same preprocessing share a cache; a case whose files have changed is made again.

    Args:
        cases: What is asked for.
        spec: What their preparation depends on.
        cache: The cache's folder.
        threads: Cases that are prepared at once.
        progress: Called after each.

    Returns:
        The cases' folders, in their order.

    Raises:
        InputError: Of the first case that fails; it says how many more do.
        OutputError: The cache cannot be written.
    """
    made = try_cache(cases, spec, cache, threads=threads, progress=progress)
    failures = [found for found in made if isinstance(found, InputError)]
    for failure in failures[1:]:
        log.error("%s", failure)
    if failures:
        raise failures[0]
    return [found for found in made if isinstance(found, Path)]


def try_cache(
    cases: Sequence[CaseFiles],
    spec: CaseSpec,
    cache: Path,
    *,
    threads: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> list[Path | InputError]:
    """As `build_cache`, with its arguments, but a case whose images are not what they should be does not end it.

    Returns:
        The cases' folders, in their order, or in a folder's place the error.

    Raises:
        OutputError: The cache cannot be written.
    """
    base = cache / _key(_preprocessing(spec))
    region_model = None if spec.region_model is None else RegionModel(load_bundle(spec.region_model), "cpu")

    def one(files: CaseFiles) -> Path | InputError:
        folder = base / f"{files.name}-{_key(_fingerprint(files, spec))}"
        try:
            if not folder.is_dir():
                store_case(prepare_case(files, spec, region_model), folder)
        except InputError as error:
            return error
        progress()
        return folder

    with ThreadPoolExecutor(max_workers=max(1, threads)) as executor:
        return list(executor.map(one, cases))


def _preprocessing(spec: CaseSpec) -> dict[str, Any]:
    kept = spec.model_dump(mode="json", include={"channels", "reference", "spacing_zyx"})
    # What is not set is not named: caches of runs without numbers and regions stay what they were.
    kept["channels"] = [{key: said for key, said in one.items() if said is not None} for one in kept["channels"]]
    kept |= {"labels": {}, **spec.label_set.model_dump(mode="json", exclude_defaults=True)}
    region = {} if spec.region_model is None else {"region_model": load_bundle_spec(spec.region_model).sha256}
    return {"format": CACHE_FORMAT, **kept, **region}


def _fingerprint(files: CaseFiles, spec: CaseSpec) -> list[list[Any]]:
    paths = [*files.images.items(), *(("label", path) for path in files.label_files)]
    paths += [("clinical", path) for path in files.clinical if spec.scalar_places]
    return [[name, str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for name, p in paths]


def _key(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


#: How a folder may be laid out.
LAYOUTS: dict[str, Callable[[Path, Sequence[str]], list[CaseFiles]]] = {
    "nnunet": nnunet_cases,
    "bids": bids_cases,
    **{name: dataset.cases for name, dataset in DATASETS.items()},
}

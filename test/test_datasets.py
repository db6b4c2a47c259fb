"""Each data set in its official layout, in miniature: every case is found with its files, and what is wrong is said."""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from builders import grid_of, write_image
from segsync.errors import InputError
from segsync.geometry import Grid
from segsync.images import read, suffix_of
from segsync_train.cli import main
from segsync_train.config import FolderData, RunConfig
from segsync_train.data.adapters import DATASETS
from segsync_train.data.check import check_folder
from segsync_train.data.dataset import (
    LAYOUTS,
    cached_cases,
    check_files,
    find_cases,
    open_cases,
    prepare_case,
    read_label,
    split_cases,
)
from segsync_train.data.layout import CaseFiles, compiled
from segsync_train.data.listing import FORMATS
from training_cases import run_config

GRID = grid_of((4, 5, 6), (3.0, 1.0, 1.0))
MOVED = grid_of((4, 5, 6), (3.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Tree:
    """A data set in miniature: images by case and channel, labels by case, and files that belong to no case's input.

    stored: a value in the label map, and what it must become.
    """

    images: dict[str, dict[str, str]]
    labels: dict[str, tuple[str, ...]]
    others: tuple[str, ...] = ()
    stored: tuple[int, int] = (1, 1)


def smir(folder: str, kinds: dict[str, str], prefix: str, first: int) -> dict[str, str]:
    """One case of the SMIR archive: a folder an image, named with a number of its own."""
    names = {channel: f"{prefix}.XX.O.{kind}.{first + i}" for i, (channel, kind) in enumerate(kinds.items())}
    return {channel: f"{folder}/{name}/{name}.nii" for channel, name in names.items()}


SISS = {"flair": "MR_Flair", "dwi": "MR_DWI", "t1": "MR_T1", "t2": "MR_T2"}
PERFUSION = {
    "adc": "MR_ADC",
    "mtt": "MR_MTT",
    "rcbf": "MR_rCBF",
    "rcbv": "MR_rCBV",
    "tmax": "MR_Tmax",
    "ttp": "MR_TTP",
}
CTP = {"ncct": "CT", "cbf": "CT_CBF", "cbv": "CT_CBV", "mtt": "CT_MTT", "tmax": "CT_Tmax"}


def isles24(case: str) -> dict[str, str]:
    head = f"train/derivatives/{case}/ses-01"
    maps = {
        name: f"{head}/perfusion-maps/{case}_ses-01_space-ncct_{name}.nii.gz" for name in ("tmax", "cbf", "cbv", "mtt")
    }
    return {
        "ncct": f"train/raw_data/{case}/ses-01/{case}_ses-01_ncct.nii.gz",
        "cta": f"{head}/{case}_ses-01_space-ncct_cta.nii.gz",
        **maps,
    }


ATLAS2 = "sub-r001s001_ses-1_space-MNI152NLin2009aSym"

TREES = {
    "isles15": Tree(
        {
            "SISS2015_Training-1": smir("SISS2015_Training/1", SISS, "VSD.Brain", 70613),
            "SISS2015_Training-28": smir("SISS2015_Training/28", SISS, "VSD.Brain", 70801),
            "SISS2015_Testing-1": smir("SISS2015_Testing/1", SISS, "VSD.Brain", 70901),
        },
        {
            "SISS2015_Training-1": ("SISS2015_Training/1/VSD.Brain.XX.O.OT.70622/VSD.Brain.XX.O.OT.70622.nii",),
            "SISS2015_Training-28": ("SISS2015_Training/28/VSD.Brain.XX.O.OT.70829/VSD.Brain.XX.O.OT.70829.nii",),
        },
    ),
    "isles16": Tree(
        {
            "training_1": smir("training_1", PERFUSION, "VSD.Brain", 127014),
            "test_3": smir("test_3", PERFUSION, "VSD.Brain", 127300),
        },
        {"training_1": ("training_1/VSD.Brain.XX.O.OT.128021/VSD.Brain.XX.O.OT.128021.nii",)},
        others=("training_1/VSD.Brain.XX.O.MR_4DPWI.127015/VSD.Brain.XX.O.MR_4DPWI.127015.nii",),
    ),
    "isles18": Tree(
        {
            "TRAINING-case_1": smir("TRAINING/case_1", CTP, "SMIR.Brain", 345562),
            "TESTING-case_1": smir("TESTING/case_1", CTP, "SMIR.Brain", 346001),
        },
        {"TRAINING-case_1": ("TRAINING/case_1/SMIR.Brain.XX.O.OT.345566/SMIR.Brain.XX.O.OT.345566.nii",)},
        others=("TRAINING/case_1/SMIR.Brain.XX.O.CT_4DPWI.345561/SMIR.Brain.XX.O.CT_4DPWI.345561.nii",),
    ),
    "isles22": Tree(
        {
            "sub-strokecase0001_ses-0001": {
                "dwi": "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz",
                "adc": "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_adc.nii.gz",
                "flair": "sub-strokecase0001/ses-0001/anat/sub-strokecase0001_ses-0001_FLAIR.nii.gz",
            },
            "sub-strokecase0002_ses-0001": {
                "dwi": "rawdata/sub-strokecase0002/ses-0001/sub-strokecase0002_ses-0001_dwi.nii.gz",
                "adc": "rawdata/sub-strokecase0002/ses-0001/sub-strokecase0002_ses-0001_adc.nii.gz",
            },
        },
        {
            f"sub-strokecase000{n}_ses-0001": (
                f"derivatives/sub-strokecase000{n}/ses-0001/sub-strokecase000{n}_ses-0001_msk.nii.gz",
            )
            for n in (1, 2)
        },
    ),
    "isles24": Tree(
        {"sub-stroke0001": isles24("sub-stroke0001"), "sub-stroke0012": isles24("sub-stroke0012")},
        {
            "sub-stroke0001": ("train/derivatives/sub-stroke0001/ses-02/sub-stroke0001_ses-02_lesion-msk.nii.gz",),
            "sub-stroke0012": (
                "train/derivatives/sub-stroke0012/ses-02/sub-stroke0012_ses-02_space-ncct_lesion-msk.nii.gz",
            ),
        },
        others=(
            "train/raw_data/sub-stroke0001/ses-01/sub-stroke0001_ses-01_cta.nii.gz",
            "train/raw_data/sub-stroke0001/ses-01/sub-stroke0001_ses-01_ctp.nii.gz",
            "train/raw_data/sub-stroke0001/ses-02/sub-stroke0001_ses-02_dwi.nii.gz",
            "train/derivatives/sub-stroke0001/ses-01/sub-stroke0001_ses-01_space-ncct_lvo-msk.nii.gz",
        ),
    ),
    "atlas12": Tree(
        {
            "031865-t01": {"t1": "Site3/031865/t01/031865_t1w_deface_stx.nii.gz"},
            "031865-t02": {"t1": "Site3/031865/t02/031865_t1w_deface_stx.nii.gz"},
            "c0001s0004t01": {"t1": "standard_part1/c0001/c0001s0004t01/c0001s0004t01_t1w_stx.nii.gz"},
        },
        {
            "031865-t01": (
                "Site3/031865/t01/031865_LesionSmooth_1_stx.nii.gz",
                "Site3/031865/t01/031865_LesionSmooth_stx.nii.gz",
            ),
            "031865-t02": ("Site3/031865/t02/031865_LesionSmooth_stx.nii.gz",),
            "c0001s0004t01": ("standard_part1/c0001/c0001s0004t01/c0001s0004t01_LesionSmooth_stx.nii.gz",),
        },
        stored=(255, 1),
    ),
    "atlas20": Tree(
        {
            "sub-r001s001_ses-1": {"t1": f"Training/R001/sub-r001s001/ses-1/anat/{ATLAS2}_T1w.nii.gz"},
            "sub-r002s009_ses-1": {
                "t1": "Testing/R002/sub-r002s009/ses-1/anat/sub-r002s009_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz"
            },
        },
        {"sub-r001s001_ses-1": (f"Training/R001/sub-r001s001/ses-1/anat/{ATLAS2}_label-L_desc-T1lesion_mask.nii.gz",)},
    ),
    "aims-tbi": Tree(
        {"scan_0001": {"t1": "scan_0001_T1.nii.gz"}, "scan_0132": {"t1": "scan_0132_T1.nii.gz"}},
        {"scan_0001": ("scan_0001_Lesion.nii.gz",), "scan_0132": ("scan_0132_Lesion.nii.gz",)},
        stored=(3, 1),
    ),
    "mmwhs-ct": Tree(
        {
            "train_1001": {"ct": "ct_train/ct_train_1001_image.nii.gz"},
            "test_2001": {"ct": "ct_test/ct_test_2001_image.nii.gz"},
        },
        {"train_1001": ("ct_train/ct_train_1001_label.nii.gz",)},
        others=("mr_train/mr_train_1001_image.nii.gz", "mr_train/mr_train_1001_label.nii.gz"),
        stored=(850, 7),
    ),
    "mmwhs-mr": Tree(
        {"train_1010": {"mr": "mr_train/mr_train_1010_image.nii.gz"}},
        {"train_1010": ("mr_train/mr_train_1010_label.nii.gz",)},
        stored=(421, 2),
    ),
    "whspp-ct": Tree(
        {
            "train-Case1001": {"ct": "A ct_train/Case1001_image.nii.gz"},
            "train-Case2001": {"ct": "B ct_train/Case2001_image.nii.gz"},
            "val-Case4001": {"ct": "ct_val/Case4001_image.nii.gz"},
        },
        {
            "train-Case1001": ("A ct_train/Case1001_label.nii.gz",),
            "train-Case2001": ("B ct_train/Case2001_label.nii.gz",),
        },
        others=("C and D mr_train/Case3001_image.nii.gz",),
        stored=(205, 1),
    ),
    "whspp-mr": Tree(
        {"train-Case3001": {"mr": "C and D mr_train/Case3001_image.nii.gz"}},
        {"train-Case3001": ("C and D mr_train/Case3001_label.nii.gz",)},
        others=("A ct_train/Case1001_image.nii.gz",),
        stored=(600, 5),
    ),
    "hvsmr2": Tree(
        {"pat0": {"mr": "cropped/pat0_cropped.nii.gz"}, "pat59": {"mr": "cropped/pat59_cropped.nii.gz"}},
        {"pat0": ("cropped/pat0_cropped_seg.nii.gz",), "pat59": ("cropped/pat59_cropped_seg.nii.gz",)},
        others=("cropped/pat0_cropped_seg_endpoints.nii.gz", "cropped_norm/pat0_cropped_norm.nii.gz"),
        stored=(8, 8),
    ),
    "imagecas": Tree(
        {"1": {"cta": "1-200/1.img.nii.gz"}, "201": {"cta": "201-400/201.img.nii.gz"}},
        {"1": ("1-200/1.label.nii.gz",), "201": ("201-400/201.label.nii.gz",)},
    ),
    "imagetbad": Tree(
        {"1": {"cta": "1_image.nii.gz"}, "126": {"cta": "126_image.nii.gz"}},
        {"1": ("1_label.nii.gz",), "126": ("126_label.nii.gz",)},
        stored=(3, 3),
    ),
    "asoca": Tree(
        {
            "Normal_1": {"cta": "Normal/CTCA/Normal_1.nrrd"},
            "Diseased_20": {"cta": "Diseased/CTCA/Diseased_20.nrrd"},
            "Normal_42": {"cta": "Testset_Normal/CTCA/Normal_42.nrrd"},
        },
        {
            "Normal_1": ("Normal/Annotations/Normal_1.nrrd",),
            "Diseased_20": ("Diseased/Annotations/Diseased_20.nrrd",),
        },
    ),
    "totalsegmentator": Tree(
        {"s0000": {"ct": "s0000/ct.nii.gz"}, "s0001": {"ct": "s0001/ct.nii.gz"}},
        {
            case: (f"{case}/segmentations/aorta.nii.gz", f"{case}/segmentations/heart.nii.gz")
            for case in ("s0000", "s0001")
        },
    ),
}


def put(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an image; under another name first, since ITK's writer takes `1.img.nii.gz` for two files."""
    whole = write_image(path.with_name(f"new{suffix_of(path)}"), array, GRID)
    whole.rename(path)


def build(tree: Tree, folder: Path) -> Path:
    """Write the tree: images of noise, label maps with one stored value, what belongs to no input as images."""
    rng = np.random.default_rng(0)
    label = np.zeros(GRID.size_zyx, np.int16)
    label[1:3, 1:3, 1:3] = tree.stored[0]
    images = [path for case in tree.images.values() for path in case.values()]
    for path in (*images, *tree.others):
        put(folder / path, (100 + 10 * rng.standard_normal(GRID.size_zyx)).astype(np.float32))
    for path in (path for paths in tree.labels.values() for path in paths):
        put(folder / path, label)
    leftover = folder / "__MACOSX" / images[0]
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"Mac OS X")
    return folder


def relative(case: CaseFiles, folder: Path) -> dict[str, str]:
    return {channel: path.relative_to(folder).as_posix() for channel, path in case.images.items()}


def test_every_data_set_has_a_miniature_and_every_layout_is_listed() -> None:
    assert set(TREES) == set(DATASETS)
    assert set(LAYOUTS) == {*DATASETS, *FORMATS}


@pytest.mark.parametrize("name", TREES)
def test_every_case_of_the_official_layout_is_found_with_its_files(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    folder = build(tree, tmp_path / "set")
    cases = find_cases(name, folder, list(DATASETS[name].channels))
    assert {case.name: relative(case, folder) for case in cases} == tree.images
    labels = {
        case.name: tuple(sorted(path.relative_to(folder).as_posix() for path in case.label_files))
        for case in cases
        if case.label_files
    }
    assert labels == tree.labels
    report = check_folder(name, folder)
    assert (report.cases, report.labelled, report.problems) == (len(tree.images), len(tree.labels), ())


@pytest.mark.parametrize("name", [name for name in TREES if name != "totalsegmentator"])
def test_stored_values_become_the_numbers_of_the_settings(name: str, tmp_path: Path) -> None:
    tree, dataset = TREES[name], DATASETS[name]
    folder = build(tree, tmp_path / "set")
    case = next(case for case in find_cases(name, folder, list(dataset.channels)) if case.label_files)
    label = read_label(case, dataset.labels).array
    assert sorted(np.unique(label).tolist()) == [0, tree.stored[1]]
    assert np.count_nonzero(label) == 8
    assert set(dataset.values.values()) <= set(dataset.labels)


# --- masks apart -----------------------------------------------------------------------------------------------------


def test_smoothed_masks_of_several_lesions_become_one(tmp_path: Path) -> None:
    """ATLAS v1.2: half of the largest value is the border, whatever the scale; an empty mask adds nothing."""
    first, second = np.zeros((2, *GRID.size_zyx), np.float32)
    first[1, 1, 1:4] = (200, 128, 127)
    second[2, 2, 2:5] = (1.0, 0.5, 0.4)
    write_image(tmp_path / "a" / "t01" / "a_t1w_deface_stx.nii.gz", first, GRID)
    paths = [tmp_path / "a" / "t01" / f"a_LesionSmooth{number}_stx.nii.gz" for number in ("", "_1", "_2")]
    for path, array in zip(paths, (first, second, np.zeros_like(first)), strict=True):
        write_image(path, array, GRID)
    (case,) = find_cases("atlas12", tmp_path, ["t1"])
    label = read_label(case, {1: "lesion"}).array
    expected = np.zeros(GRID.size_zyx)
    expected[1, 1, 1:4] = expected[2, 2, 2:4] = 1
    assert np.array_equal(label, expected)


def test_structures_are_chosen_by_the_names_in_the_settings(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    aorta = np.zeros(GRID.size_zyx, np.uint8)
    aorta[3, 4] = 1
    write_image(folder / "s0000" / "segmentations" / "aorta.nii.gz", aorta, GRID)
    case = find_cases("totalsegmentator", folder, ["ct"])[0]
    label = read_label(case, {1: "aorta", 2: "heart"}).array
    assert [int((label == value).sum()) for value in (1, 2)] == [6, 8]
    assert int(read_label(case, {5: "heart"}).array.max()) == 5
    with pytest.raises(InputError, match=r"case s0000: expected a mask of 'spleen', found aorta, heart"):
        read_label(case, {1: "spleen"})


def test_masks_on_two_grids_are_refused(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    write_image(folder / "s0001" / "segmentations" / "heart.nii.gz", np.ones(GRID.size_zyx, np.uint8), MOVED)
    with pytest.raises(InputError, match=r"heart.nii.gz: expected the grid of aorta.nii.gz"):
        read_label(find_cases("totalsegmentator", folder, ["ct"])[1], {1: "aorta", 2: "heart"})


# --- through training's own preparation ------------------------------------------------------------------------------


def config_for(name: str, folder: Path, labels: dict[int, str]) -> RunConfig:
    channels = [{"name": channel, "normalisation": {"kind": "zscore"}} for channel in DATASETS[name].channels]
    data = {"kind": "folder", "folder": str(folder), "layout": name}
    return run_config(folder, data=data, channels=channels, labels=labels, spacing_zyx=[3, 1, 1])


def test_a_case_with_values_above_255_is_prepared_and_kept(tmp_path: Path) -> None:
    folder = build(TREES["mmwhs-ct"], tmp_path / "set")
    config = config_for("mmwhs-ct", folder, dict(DATASETS["mmwhs-ct"].labels))
    cases = [case for case in find_cases("mmwhs-ct", folder, ["ct"]) if case.label_files]
    (kept,) = open_cases(cached_cases(cases, config, tmp_path / "cache"))
    assert sorted(np.unique(kept.label).tolist()) == [0, 7]


def test_cases_whose_labels_are_held_back_neither_train_nor_validate(tmp_path: Path) -> None:
    """They are found, to pretrain on; a case that only lost its label is not one of them."""
    folder = build(TREES["whspp-ct"], tmp_path / "set")
    config = config_for("whspp-ct", folder, dict(DATASETS["whspp-ct"].labels))
    cases = find_cases("whspp-ct", folder, ["ct"])
    assert [case.name for case in cases if case.held_back] == ["val-Case4001"]
    check_files(cases, config, folder)
    assert isinstance(config.data, FolderData)
    split = split_cases(cases, config.data.model_copy(update={"validation": 0.5}))
    assert {case.name for case in (*split.training, *split.validation)} == {"train-Case1001", "train-Case2001"}
    (folder / TREES["whspp-ct"].labels["train-Case2001"][0]).unlink()
    with pytest.raises(InputError, match=r"case train-Case2001: expected a label map, found none \(1 of 2 cases"):
        check_files(find_cases("whspp-ct", folder, ["ct"]), config, folder)


@pytest.mark.parametrize("value", [300, 3])
def test_a_value_that_the_set_has_not_is_told_when_a_case_is_prepared(value: int, tmp_path: Path) -> None:
    """Also one that is a number of the settings: in the files it means something else, or nothing."""
    folder = build(TREES["mmwhs-ct"], tmp_path / "set")
    label = folder / "ct_train" / "ct_train_1001_label.nii.gz"
    write_image(label, np.full(GRID.size_zyx, value, np.int16), GRID)
    config = config_for("mmwhs-ct", folder, dict(DATASETS["mmwhs-ct"].labels))
    case = next(case for case in find_cases("mmwhs-ct", folder, ["ct"]) if case.label_files)
    with pytest.raises(InputError, match=rf"ct_train_1001_label.nii.gz: expected the label values .* found {value}"):
        prepare_case(case, config)


def test_a_mask_that_changed_is_prepared_again(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    config = config_for("totalsegmentator", folder, {1: "heart"})
    cases = find_cases("totalsegmentator", folder, ["ct"])[:1]
    first = cached_cases(cases, config, tmp_path / "cache")
    write_image(folder / "s0000" / "segmentations" / "heart.nii.gz", np.ones(GRID.size_zyx, np.uint8), GRID)
    second = cached_cases(cases, config, tmp_path / "cache")
    assert first != second
    assert open_cases(second)[0].label.all()


def test_channels_that_a_set_has_not_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"isles22: expected channels among dwi, adc, flair, found 't1'"):
        find_cases("isles22", tmp_path, ["dwi", "t1"])


# --- general formats -------------------------------------------------------------------------------------------------


def test_bids_sessions_entities_and_derivatives(tmp_path: Path) -> None:
    names = {
        "sub-01/ses-1/anat/sub-01_ses-1_acq-mprage_T1w.nii.gz": None,
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz": None,
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz": None,
        "sub-02/anat/sub-02_T1w.nii": None,
        "derivatives/manual/sub-01/ses-1/anat/sub-01_ses-1_space-orig_label-lesion_mask.nii.gz": None,
        "derivatives/prep/sub-01/ses-1/anat/sub-01_ses-1_space-MNI_T1w.nii.gz": None,
        "sub-02/anat/sub-02_dseg.nii.gz": None,
        "sub-02/anat/readme.nii.gz": None,
    }
    for name in names:
        write_image(tmp_path / name, np.zeros(GRID.size_zyx, np.float32), GRID)
    cases = find_cases("bids", tmp_path, ["t1", "FLAIR"])
    assert {case.name: (sorted(case.images), bool(case.label)) for case in cases} == {
        "sub-01_ses-1": (["FLAIR", "t1"], True),
        "sub-01_ses-2": (["t1"], False),
        "sub-02": (["t1"], True),
    }
    assert relative(cases[0], tmp_path)["t1"] == "sub-01/ses-1/anat/sub-01_ses-1_acq-mprage_T1w.nii.gz"


def test_two_bids_files_of_one_channel_and_a_folder_of_other_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected names as in BIDS"):
        find_cases("bids", tmp_path, ["t1"])
    for run in (1, 2):
        write_image(tmp_path / "sub-01" / f"sub-01_run-{run}_T1w.nii.gz", np.zeros(GRID.size_zyx, np.float32), GRID)
    with pytest.raises(InputError, match=r"sub-01_run-2_T1w.nii.gz: expected one T1w for the case sub-01"):
        find_cases("bids", tmp_path, ["t1"])


def test_the_documentation_lists_every_layout_and_its_example_of_a_new_set_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text()
    assert [name for name in LAYOUTS if f"`{name}`" not in text] == []
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    for name in ("flair", "t1", "lesion"):
        put(tmp_path / "some" / "p1" / f"{name}.nii.gz", np.ones(GRID.size_zyx, np.uint8))
    (case,) = names["SETS"][0].cases(tmp_path, ["flair", "t1"])
    assert (case.name, sorted(case.images), len(case.label_files)) == ("p1", ["flair", "t1"], 1)


def nnunet(folder: Path, description: object, labels: npt.NDArray[np.generic]) -> Path:
    for channel in (0, 1):
        write_image(folder / "imagesTr" / f"a_000{channel}.nii.gz", np.ones(GRID.size_zyx, np.float32), GRID)
    write_image(folder / "labelsTr" / "a.nii.gz", labels, GRID)
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    "description",
    [
        {"channel_names": {"0": "CT", "1": "CTA"}, "labels": {"background": 0, "core": 1}},
        {"modality": {"0": "CT", "1": "CTA"}, "labels": {"0": "background", "1": "core"}},
    ],
    ids=["nnU-Net 2", "Decathlon"],
)
def test_what_dataset_json_says_is_checked(description: object, tmp_path: Path) -> None:
    good = nnunet(tmp_path / "good", description, np.ones(GRID.size_zyx, np.uint8))
    assert check_folder("nnunet", good).problems == ()
    bad = nnunet(tmp_path / "bad", description, np.full(GRID.size_zyx, 2, np.uint8))
    (problem,) = check_folder("nnunet", bad).problems
    assert "expected the label values 0, 1, found 2" in problem


# --- what is wrong with a folder -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Something done to a good miniature of ISLES'22, and what is said about it."""

    said: tuple[str, ...]
    removed: tuple[str, ...] = ()
    written: dict[str, tuple[float, Grid]] = field(default_factory=dict)
    cut: str = ""


CASE1 = "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001"
MASK1, MASK2 = (TREES["isles22"].labels[f"sub-strokecase000{n}_ses-0001"][0] for n in (1, 2))
FAULTS = {
    "an image is missing": Fault(
        ("case sub-strokecase0001_ses-0001: expected an image of the channel 'adc', found none",),
        removed=(f"{CASE1}_adc.nii.gz",),
    ),
    "a label is missing": Fault(
        ("case sub-strokecase0001_ses-0001: expected a label map, found none",), removed=(MASK1,)
    ),
    "only the label is there": Fault(
        tuple(f"case sub-strokecase0001_ses-0001: expected an image of the channel {c!r}" for c in ("dwi", "adc")),
        removed=tuple(TREES["isles22"].images["sub-strokecase0001_ses-0001"].values()),
    ),
    "the label lies elsewhere": Fault(
        ("expected the grid of sub-strokecase0001_ses-0001_dwi.nii.gz",), written={MASK1: (1, MOVED)}
    ),
    "two labels hold other values": Fault(
        ("expected the label values 0, 1, found 2", "expected the label values 0, 1, found 0.5"),
        written={MASK1: (2, GRID), MASK2: (0.5, GRID)},
    ),
    "an image is cut": Fault(("expected a whole gzip file",), cut=f"{CASE1}_dwi.nii.gz"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_is_told_with_its_case_or_file(fault: Fault, tmp_path: Path) -> None:
    folder = build(TREES["isles22"], tmp_path / "set")
    for name in fault.removed:
        (folder / name).unlink()
    for name, (value, grid) in fault.written.items():
        write_image(folder / name, np.full(grid.size_zyx, value, np.float32), grid)
    if fault.cut:
        (folder / fault.cut).write_bytes((folder / fault.cut).read_bytes()[:-40])
    problems = check_folder("isles22", folder).problems
    assert len(problems) == len(fault.said)
    for problem, said in zip(problems, fault.said, strict=True):
        assert said in problem


def test_a_folder_without_any_labels_is_whole_in_a_general_format_and_not_as_a_labelled_set(tmp_path: Path) -> None:
    for subject in (1, 2):
        put(tmp_path / "rawdata" / f"sub-{subject}_dwi.nii.gz", np.ones(GRID.size_zyx, np.float32))
        put(tmp_path / "rawdata" / f"sub-{subject}_adc.nii.gz", np.ones(GRID.size_zyx, np.float32))
    assert check_folder("bids", tmp_path).problems == ()
    assert len(check_folder("isles22", tmp_path).problems) == 2
    put(tmp_path / "derivatives" / "sub-1_msk.nii.gz", np.ones(GRID.size_zyx, np.uint8))
    (problem,) = check_folder("bids", tmp_path).problems
    assert problem.startswith("case sub-2: expected a label map")


def test_a_structure_that_other_cases_have_is_missed(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    (folder / "s0001" / "segmentations" / "heart.nii.gz").unlink()
    (problem,) = check_folder("totalsegmentator", folder).problems
    assert problem.startswith("case s0001: expected a mask of 'heart', as other cases have")


def test_two_files_that_claim_to_be_one_image_are_refused(tmp_path: Path) -> None:
    folder = build(TREES["hvsmr2"], tmp_path / "set")
    write_image(folder / "copy" / "pat0_cropped.nii.gz", np.ones(GRID.size_zyx, np.float32), GRID)
    with pytest.raises(InputError, match=r"pat0_cropped.nii.gz: expected one mr image for the case pat0, found"):
        check_folder("hvsmr2", folder)


# --- patterns and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("**/{case}_T1", "a_T1", {"case": "a"}),
        ("**/{case}_T1", "x/y/a_T1", {"case": "a"}),
        ("**/{case}_T1", "x/a_t1", {"case": "a"}),
        ("**/{case}_T1", "x/a_T1w", None),
        ("{case}/{case}_ct", "s1/s1_ct", {"case": "s1"}),
        ("{case}/{case}_ct", "s1/s2_ct", None),
        ("{case}/*/ct", "s1/a/b/ct", None),
        ("{case}.img", "1ximg", None),
    ],
)
def test_patterns(pattern: str, path: str, found: dict[str, str] | None) -> None:
    match = compiled(pattern).fullmatch(path)
    assert (match.groupdict() if match else None) == found


def test_nrrd_keeps_its_geometry_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    """ASOCA is distributed as NRRD."""
    array = np.random.default_rng(0).standard_normal(GRID.size_zyx).astype(np.float32)
    for compress in (True, False):
        path = write_image(tmp_path / f"a{compress}.nrrd", array, GRID, compress=compress)
        volume = read(path)
        assert volume.grid.same_as(GRID)
        assert np.array_equal(volume.array, array)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"expected a whole \.nrrd image"):
            read(path)


# --- the command -----------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """`segsync-train ARGUMENT...` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["segsync-train", *map(str, arguments)])
    handlers = logging.getLogger().handlers[:]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        logging.getLogger().handlers[:] = handlers
    return 0


def test_the_command_lists_describes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "datasets") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in LAYOUTS)
    assert run(monkeypatch, "datasets", "mmwhs-mr") == 0
    assert "3: left ventricle (in the files 500)" in capsys.readouterr().out
    folder = build(TREES["isles22"], tmp_path / "set")
    assert run(monkeypatch, "datasets", "isles22", folder) == 0
    assert "2 cases\t2 with labels\tnothing wrong" in capsys.readouterr().out


def test_the_command_ends_with_3_where_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    folder = build(TREES["isles22"], tmp_path / "set")
    (folder / MASK1).unlink()
    for arguments, said in (
        (("isles22", folder), "1 problems in 2 cases"),
        (("isles22", tmp_path / "empty"), "expected images like **/{case}_dwi, found none"),
        (("isles22", tmp_path / "none"), "expected a folder of cases, found none"),
        (("bids", tmp_path / "empty"), "expected names as in BIDS"),
        (("nnunet", tmp_path / "empty"), "expected the folder imagesTr"),
        (("isles23", folder), "expected one of nnunet, bids"),
        (("isles23",), "expected a data set among"),
    ):
        assert run(monkeypatch, "datasets", *arguments) == 3
        printed = capsys.readouterr()
        assert said in printed.err
        assert printed.out == ""

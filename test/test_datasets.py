"""Each data set in its official layout, in miniature: every case is found with its files and labels."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from builders import grid_of, write_image
from dataset_trees import GRID, MOVED, TREES, build, noise, put
from segsync.errors import InputError
from segsync.geometry import Grid, Volume
from segsync.images import read
from segsync_train.config.data import FolderData
from segsync_train.config.run import RunConfig
from segsync_train.data.adapters import DATASETS
from segsync_train.data.cases import StoredCases
from segsync_train.data.catalog import FORMATS
from segsync_train.data.dataset import (
    LAYOUTS,
    build_cache,
    check_files,
    find_cases,
    labels_onto,
    prepare_case,
    read_label,
)
from segsync_train.data.formats import bids_channels, nnunet_description
from segsync_train.data.layout import CaseFiles, compiled
from segsync_train.data.splits import split_cases
from segsync_train.data.validate import validate_folder
from training_cases import run_config


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
    report = validate_folder(name, folder)
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


def test_a_coarse_voxel_has_the_label_that_fills_most_of_it() -> None:
    """Voxels of 5 mm over plates of 1 mm: of five plates two are labelled 7, one 3 and none of them most of the voxel;
    three together make it foreground, and the larger wins. One alone does not, though it lies at the voxel's centre.
    """
    fine, coarse = grid_of((25, 25, 50), origin=(0, 0, 0)), grid_of((5, 5, 10), (5.0, 5.0, 5.0), (2.0, 2.0, 2.0))
    array = np.zeros(fine.size_zyx, dtype=np.uint8)
    array[..., 0::5] = array[..., 1::5] = 7
    array[..., 2::5] = 3
    assert (labels_onto(Volume(array, fine), coarse, (3, 7))[1:-1, 1:-1, 1:-1] == 2).all()
    array[array == 7] = 0
    assert not labels_onto(Volume(array, fine), coarse, (3, 7))[1:-1, 1:-1, 1:-1].any()


def test_a_case_with_values_above_255_is_prepared_and_kept(tmp_path: Path) -> None:
    folder = build(TREES["mmwhs-ct"], tmp_path / "set")
    config = config_for("mmwhs-ct", folder, dict(DATASETS["mmwhs-ct"].labels))
    cases = [case for case in find_cases("mmwhs-ct", folder, ["ct"]) if case.label_files]
    kept = StoredCases(build_cache(cases, config.case_spec, tmp_path / "cache"))[0]
    assert sorted(np.unique(kept.label).tolist()) == [0, 7]


def test_cases_whose_labels_are_held_back_neither_train_nor_validate(tmp_path: Path) -> None:
    """They are found, to pretrain on; a case that only lost its label is not one of them."""
    folder = build(TREES["whspp-ct"], tmp_path / "set")
    config = config_for("whspp-ct", folder, dict(DATASETS["whspp-ct"].labels))
    cases = find_cases("whspp-ct", folder, ["ct"])
    assert [case.name for case in cases if case.held_back] == ["val-Case4001"]
    check_files(cases, config.channels, folder)
    assert isinstance(config.data, FolderData)
    split = split_cases(cases, config.data.model_copy(update={"validation": 0.5}))
    assert {case.name for case in (*split.training, *split.validation)} == {"train-Case1001", "train-Case2001"}
    (folder / TREES["whspp-ct"].labels["train-Case2001"][0]).unlink()
    with pytest.raises(InputError, match=r"case train-Case2001: no label map \(1 of 2 cases"):
        check_files(find_cases("whspp-ct", folder, ["ct"]), config.channels, folder)


def test_every_case_validates_in_one_fold_and_trains_in_all_others() -> None:
    cases = [CaseFiles(f"case{number:02d}", {}) for number in range(11)]
    names = {case.name for case in cases}

    def data(**changes: Any) -> FolderData:
        return FolderData.model_validate({"folder": "x", "folds": 4, **changes})

    splits = [split_cases(cases, data(fold=fold)) for fold in range(4)]
    for split in splits:
        training, validation = ({case.name for case in part} for part in (split.training, split.validation))
        assert not training & validation
        assert training | validation == names
        assert len(validation) in (2, 3)
    assert sorted(case.name for split in splits for case in split.validation) == sorted(names)
    # In an order of their own: names often tell scanners and hospitals.
    assert [case.name for case in splits[0].validation] != sorted(names)[::4]
    assert split_cases(cases[::-1], data(fold=1)) == splits[1]
    assert split_cases(cases, data(fold=1, split_seed=1)) != splits[1]


def test_fewer_labels_are_a_part_of_more() -> None:
    """And the cases that validate are the same, and none of those that train."""
    cases = [CaseFiles(f"case{number:02d}", {}) for number in range(20)]
    splits = [
        split_cases(cases, FolderData.model_validate({"folder": "x", "validation": 0.25, "labelled": fraction}))
        for fraction in (0.01, 0.4, 1.0)
    ]
    assert [len(split.training) for split in splits] == [1, 6, 15]
    for fewer, more in itertools.pairwise(splits):
        assert more.training[: len(fewer.training)] == fewer.training
        assert fewer.validation == more.validation
    assert not any(case in splits[-1].validation for case in splits[-1].training)


def test_a_fraction_of_the_labels_is_taken_of_named_cases_as_well() -> None:
    """Half of four named cases: the first two, as they stand in the settings; those that validate all stay."""
    cases = [CaseFiles(name, {"t1": Path(name)}, Path(name)) for name in "abcdef"]
    data = FolderData(folder=Path(), training_cases=("d", "b", "a", "c"), validation_cases=("e", "f"), labelled=0.5)
    split = split_cases(cases, data)
    assert [case.name for case in split.training] == ["d", "b"]
    assert [case.name for case in split.validation] == ["e", "f"]


@pytest.mark.parametrize("value", [300, 3])
def test_a_value_that_the_set_has_not_is_told_when_a_case_is_prepared(value: int, tmp_path: Path) -> None:
    """Also one that is a number of the settings: in the files it means something else, or nothing."""
    folder = build(TREES["mmwhs-ct"], tmp_path / "set")
    label = folder / "ct_train" / "ct_train_1001_label.nii.gz"
    write_image(label, np.full(GRID.size_zyx, value, np.int16), GRID)
    config = config_for("mmwhs-ct", folder, dict(DATASETS["mmwhs-ct"].labels))
    case = next(case for case in find_cases("mmwhs-ct", folder, ["ct"]) if case.label_files)
    with pytest.raises(InputError, match=rf"ct_train_1001_label.nii.gz: expected the label values .* found {value}"):
        prepare_case(case, config.case_spec)


def test_a_mask_that_changed_is_prepared_again(tmp_path: Path) -> None:
    folder = build(TREES["totalsegmentator"], tmp_path / "set")
    config = config_for("totalsegmentator", folder, {1: "heart"})
    cases = find_cases("totalsegmentator", folder, ["ct"])[:1]
    first = build_cache(cases, config.case_spec, tmp_path / "cache")
    write_image(folder / "s0000" / "segmentations" / "heart.nii.gz", np.ones(GRID.size_zyx, np.uint8), GRID)
    second = build_cache(cases, config.case_spec, tmp_path / "cache")
    assert first != second
    assert StoredCases(second)[0].label.all()


def test_a_file_of_the_same_size_that_was_written_later_is_prepared_again(tmp_path: Path) -> None:
    """As uncompressed images are that were corrected; and what is prepared for one spacing is not taken for another."""
    folder = nnunet(tmp_path / "set", {}, np.ones(GRID.size_zyx, np.uint8))
    cases = find_cases("nnunet", folder, ["ct", "cta"])
    channels = [{"name": name, "normalisation": {"kind": "zscore"}} for name in ("ct", "cta")]
    config = run_config(folder, channels=channels, spacing_zyx=[3, 1, 1])
    (first,) = build_cache(cases, config.case_spec, tmp_path / "cache")
    assert build_cache(cases, config.case_spec, tmp_path / "cache") == [first]
    for path in cases[0].label_files:
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))
    (second,) = build_cache(cases, config.case_spec, tmp_path / "cache")
    assert second != first
    coarse = run_config(folder, channels=channels, spacing_zyx=[3, 2, 2])
    (case,) = StoredCases(build_cache(cases, coarse.case_spec, tmp_path / "cache"))
    assert case.spacing_zyx == (3, 2, 2)


@pytest.mark.parametrize(
    ("label", "grid", "said"),
    [
        (np.ones(GRID.size_zyx, np.uint8), MOVED, "expected the grid of .* give label and image of one grid"),
        (np.full(GRID.size_zyx, 2, np.uint8), GRID, "expected the label values 0, 1, found 2"),
    ],
    ids=["moved", "another value"],
)
def test_a_label_map_that_does_not_fit_trains_nothing(
    label: npt.NDArray[np.uint8], grid: Grid, said: str, tmp_path: Path
) -> None:
    folder = nnunet(tmp_path / "set", {}, np.ones(GRID.size_zyx, np.uint8))
    (case,) = find_cases("nnunet", folder, ["ct", "cta"])
    channels = [{"name": name, "normalisation": {"kind": "zscore"}} for name in ("ct", "cta")]
    config = run_config(folder, channels=channels)
    write_image(case.label_files[0], label, grid)
    with pytest.raises(InputError, match=f"{case.label_files[0].name}: {said}"):
        prepare_case(case, config.case_spec)


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


def test_bids_entities_say_what_a_diffusion_image_is(tmp_path: Path) -> None:
    """ds004889's layout, with a raw series, a phase image and a map of no channel beside it."""
    for name in ("rec-TRACE_dwi", "rec-ADC_dwi", "dwi", "part-phase_dwi", "rec-FA_dwi"):
        write_image(tmp_path / "sub-1/dwi" / f"sub-1_{name}.nii.gz", np.zeros(GRID.size_zyx, np.float32), GRID)
    mask = "derivatives/lesion_masks/sub-1/dwi/sub-1_space-TRACE_desc-lesion_mask.nii.gz"
    write_image(tmp_path / mask, np.zeros(GRID.size_zyx, np.float32), GRID)
    [case] = find_cases("bids", tmp_path, ["dwi", "adc"])
    assert relative(case, tmp_path) == {
        "dwi": "sub-1/dwi/sub-1_rec-TRACE_dwi.nii.gz",
        "adc": "sub-1/dwi/sub-1_rec-ADC_dwi.nii.gz",
    }
    assert case.label == tmp_path / mask
    assert bids_channels(tmp_path) == ["adc", "dwi"]
    [alone] = find_cases("bids", tmp_path, ["dwi"])
    assert relative(alone, tmp_path) == {"dwi": "sub-1/dwi/sub-1_rec-TRACE_dwi.nii.gz"}


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
        write_image(folder / "imagesTr" / f"a_000{channel}.nii.gz", noise(), GRID)
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
    assert validate_folder("nnunet", good).problems == ()
    bad = nnunet(tmp_path / "bad", description, np.full(GRID.size_zyx, 2, np.uint8))
    (problem,) = validate_folder("nnunet", bad).problems
    assert "expected the label values 0, 1, found 2" in problem


def test_channels_are_counted_by_their_numbers(tmp_path: Path) -> None:
    """Of more than ten, 10 comes after 9; and numbers that the settings do not name are passed over."""
    names = [f"channel {number}" for number in range(12)]
    described = {"channel_names": {str(number): name for number, name in enumerate(names)}}
    assert nnunet_description(nnunet(tmp_path / "described", described, np.ones(GRID.size_zyx, np.uint8)))[0] == names
    (case,) = find_cases("nnunet", nnunet(tmp_path / "plain", {}, np.ones(GRID.size_zyx, np.uint8)), ["ct"])
    assert [path.name[-12:] for path in case.images.values()] == ["_0000.nii.gz"]


def test_channels_in_another_order_than_the_files_numbers_are_refused(tmp_path: Path) -> None:
    """By their numbers alone the CT would be taken for the CTA. The order of the keys in the JSON says nothing."""
    description = {"channel_names": {"1": "CTA", "0": "CT"}, "labels": {"background": 0, "core": 1}}
    folder = nnunet(tmp_path / "set", description, np.ones(GRID.size_zyx, np.uint8))
    (case,) = find_cases("nnunet", folder, ["ct", "cta"])
    assert relative(case, folder) == {"ct": "imagesTr/a_0000.nii.gz", "cta": "imagesTr/a_0001.nii.gz"}
    assert nnunet_description(folder)[0] == ["CT", "CTA"]
    with pytest.raises(
        InputError, match=r"dataset\.json: expected the channels cta, ct by their .* found CT, CTA; list"
    ):
        find_cases("nnunet", folder, ["cta", "ct"])
    assert len(find_cases("nnunet", folder, ["first", "second"])) == 1  # names of one's own are taken in their order


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
        with pytest.raises(InputError, match=r"expected (whole compressed voxels|the 480 bytes of voxels)"):
            read(path)

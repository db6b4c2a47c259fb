"""Splits: whole subjects and centres, folds alike in number and lesion volume, kept in the run's folder."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import grid_of, write_image
from dataset_trees import TREES, build
from segsync.errors import InputError
from segsync_train.config.data import FolderData
from segsync_train.config.labels import LabelSet
from segsync_train.data.dataset import find_cases
from segsync_train.data.layout import CaseFiles
from segsync_train.data.splits import divide, read_split, split_cases, split_of_run, write_split

GRID = grid_of((4, 4, 4))


def data(folder: Path = Path("x"), **changes: Any) -> FolderData:
    return FolderData.model_validate({"folder": str(folder), **changes})


def sides(cases: list[CaseFiles], settings: FolderData) -> tuple[set[str], set[str]]:
    split = split_cases(cases, settings)
    training, validation = ({case.name for case in part} for part in (split.training, split.validation))
    return training, validation


def test_no_subject_trains_and_validates() -> None:
    """Twenty subjects of two sessions in five folds, and in a fraction: every session of four subjects validates."""
    cases = [CaseFiles(f"sub-{subject:02d}_ses-{session}", {}) for subject in range(20) for session in (1, 2)]
    for settings in (*(data(folds=5, fold=fold) for fold in range(5)), data(validation=0.2)):
        training, validation = sides(cases, settings)
        assert len(validation) == 8
        assert not {name.split("_")[0] for name in training} & {name.split("_")[0] for name in validation}


def test_folds_have_alike_volumes() -> None:
    """Volumes of strokes are log-normal: each fold has as many cases, and as many without a lesion and of each size."""
    rng = np.random.default_rng(0)
    names = [f"c{number:03d}" for number in range(100)]
    volumes = {name: 0.0 if number < 20 else float(rng.lognormal(2, 1.5)) for number, name in enumerate(names)}
    folds = divide({name: name for name in names}, volumes, [0.2] * 5, seed=3)
    assert sorted(name for fold in folds for name in fold) == names
    bounds = np.quantile([volume for volume in volumes.values() if volume], [0.5])
    for fold in folds:
        assert len(fold) == 20
        assert sum(volumes[name] == 0 for name in fold) == 4
        assert sum(volumes[name] > bounds[0] for name in fold) == 8


def test_whole_sites_stay_together_and_the_parts_are_near_in_size() -> None:
    """Sites of 40 to 1 cases: no fold is farther from its fifth than the largest site forces it to be."""
    sizes = [40, 30, 22, 17, 12, 9, 6, 5, 4, 3, 2, 1, 1]
    groups = {f"s{site}-{number}": f"s{site}" for site, size in enumerate(sizes) for number in range(size)}
    folds = divide(groups, {}, [0.2] * 5, seed=0)
    held = [{groups[name] for name in fold} for fold in folds]
    assert Counter(site for sites in held for site in sites).most_common(1)[0][1] == 1
    assert max(len(fold) for fold in folds) == 40
    assert min(len(fold) for fold in folds) >= 22


def test_the_centre_of_atlas_is_a_group(tmp_path: Path) -> None:
    folder = build(TREES["atlas30-native"], tmp_path / "set")
    cases = find_cases("atlas30-native", folder, ["t1"])
    assert {case.site for case in cases} == {"R001", "R052"}
    training, validation = sides(cases, data(folder, group="site", folds=2))
    assert {frozenset(training), frozenset(validation)} == {
        frozenset({"sub-r001s001_ses-1", "sub-r001s001_ses-2"}),
        frozenset({"sub-r052s003_ses-1"}),
    }


def participants(folder: Path, text: str) -> list[CaseFiles]:
    folder.mkdir()
    (folder / "participants.tsv").write_text(text.replace(" ", "\t"))
    return [CaseFiles(f"sub-{number}_ses-1", {}) for number in range(4)]


def test_a_column_of_the_participants_is_a_group(tmp_path: Path) -> None:
    """With the subjects' names as BIDS has them, or without `sub-`."""
    table = "participant_id scanner\nsub-0 A\n1 A\nsub-2 B\nsub-3 B\n"
    cases = participants(tmp_path / "set", table)
    training, validation = sides(cases, data(tmp_path / "set", group="scanner", folds=2))
    assert {frozenset(training), frozenset(validation)} == {
        frozenset({"sub-0_ses-1", "sub-1_ses-1"}),
        frozenset({"sub-2_ses-1", "sub-3_ses-1"}),
    }


def test_a_subject_of_two_groups_joins_them(tmp_path: Path) -> None:
    """Sessions listed one by one: a patient who was scanned in both hospitals keeps both on one side."""
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsite\nsub-1_ses-1\tA\nsub-1_ses-2\tB\nsub-2_ses-1\tB\nsub-3_ses-1\tC\n"
    )
    cases = [CaseFiles(name, {}) for name in ("sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1", "sub-3_ses-1")]
    training, validation = sides(cases, data(tmp_path, group="site", folds=2))
    assert {"sub-3_ses-1"} in (training, validation)


@pytest.mark.parametrize(
    ("changes", "table", "message"),
    [
        ({"group": "centre", "folds": 2}, "participant_id scanner\n", r"the column 'centre', found participant_id, sc"),
        ({"group": "scanner", "folds": 2}, "participant_id scanner\nsub-0 A\n", r"no scanner of sub-1"),
        (
            {"group": "scanner", "folds": 2},
            "participant_id scanner\n0 A\n1 A\n2 A\n3 A\n",
            r"as many groups of cases \(data.group: scanner\) as there are folds \(2\), found 1 in 4 cases",
        ),
        ({"folds": 5}, "participant_id\n", r"as many cases as there are folds \(5\), found 4"),
    ],
)
def test_a_group_that_cannot_divide_is_one_clear_line(
    changes: dict[str, Any], table: str, message: str, tmp_path: Path
) -> None:
    cases = participants(tmp_path / "set", table)
    with pytest.raises(InputError, match=message):
        split_cases(cases, data(tmp_path / "set", **changes))


def test_a_group_without_a_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.group 'site': expected participants.tsv with this column, found no"):
        split_cases([CaseFiles("a", {}), CaseFiles("b", {})], data(tmp_path, group="site"))


def test_named_cases_of_one_subject_on_both_sides_are_refused() -> None:
    cases = [CaseFiles(f"sub-1_ses-{session}", {}) for session in (1, 2)]
    named = data(training_cases=["sub-1_ses-1"], validation_cases=["sub-1_ses-2"])
    with pytest.raises(InputError, match=r"one subject on one side, found 'sub-1_ses-1' in training_cases and"):
        split_cases(cases, named)


def test_the_labels_volumes_are_kept_with_the_split(tmp_path: Path) -> None:
    label = np.zeros(GRID.size_zyx, np.uint8)
    label[0, 0, :3] = 2
    path = write_image(tmp_path / "label.nii.gz", label, GRID)
    cases = [CaseFiles("a", {}, path), CaseFiles("b", {}, path)]
    write_split(
        split_cases(cases, data(validation=0.5), LabelSet(labels={2: "lesion"})), "subject", tmp_path / "split.json"
    )
    kept = read_split(tmp_path / "split.json")
    assert kept.volumes_ml == pytest.approx(
        {"a": 0.003 * np.prod(GRID.spacing_zyx), "b": 0.003 * np.prod(GRID.spacing_zyx)}
    )


def test_a_run_is_read_by_the_split_it_was_trained_with(tmp_path: Path) -> None:
    """Cases that came later change nothing; one that is gone is told, and so is a run that wrote no split."""
    cases = [CaseFiles(f"c{number}", {}) for number in range(8)]
    settings = data(tmp_path, validation=0.25)
    begun = split_cases(cases, settings)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match=r"split.json: expected the cases that the run trained on, found no such"):
        split_of_run(tmp_path, cases, settings, LabelSet())
    write_split(begun, "subject", tmp_path / "split.json")
    more = [*cases, *(CaseFiles(f"new{number}", {}) for number in range(9))]
    assert split_of_run(tmp_path, more, settings, LabelSet()) == begun
    missing = begun.training[0].name
    with pytest.raises(InputError, match=f"expected the case '{missing}', which .*split.json names, found no such"):
        split_of_run(tmp_path, [case for case in cases if case.name != missing], settings, LabelSet())

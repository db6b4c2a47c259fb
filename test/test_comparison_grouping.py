"""Scores are read and grouped: seeds, folds, labels and systems, and what cannot be compared is told in one line."""

import csv
from pathlib import Path

import numpy as np
import pytest

from score_folders import CASES, SYSTEMS, rows_of, setting_of, write_scores
from segsync.errors import InputError
from segsync_train.comparison.grouping import group_runs, reference_of
from segsync_train.comparison.scores import DICE, HD95, MEAN, METRICS, read_run, read_runs


def forget(folder: Path, *places: tuple[str, str]) -> None:
    """Take the distances of some (case, label) out of a folder's scores, as where nothing was found."""
    rows = rows_of(folder / "cases.csv")
    for row in rows:
        if (row["case"], row["label"]) in places:
            row.update(hd_mm="", hd95_mm="", assd_mm="")
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_seeds_are_averaged_case_by_case_and_labels_within_a_case(tmp_path: Path) -> None:
    folders = [write_scores(tmp_path / f"{seed}", "3D-SegSync", 0.9, seed=seed) for seed in range(2)]
    setting = setting_of(*folders, write_scores(tmp_path / "other", "3D-UNet", 0.8))
    by_hand = {
        (row["case"], row["label"], seed): float(row["dice"])
        for seed, folder in enumerate(folders)
        for row in rows_of(folder / "cases.csv")
    }
    case = setting.cases[3]
    anterior = (by_hand[case, "1", 0] + by_hand[case, "1", 1]) / 2
    posterior = (by_hand[case, "2", 0] + by_hand[case, "2", 1]) / 2
    assert setting.of(DICE, 1)[0, 3] == pytest.approx(anterior)
    assert setting.of(DICE, MEAN)[0, 3] == pytest.approx((anterior + posterior) / 2)
    assert dict(setting.labels) == {0: "mean of labels", 1: "anterior", 2: "posterior"}


def test_who_misses_a_label_gains_nothing_by_it(tmp_path: Path) -> None:
    """The distance to a label that one system, or one of its seeds, missed is not left out of its means."""
    folders = [write_scores(tmp_path / f"{seed}", "3D-SegSync", 0.9, seed=seed) for seed in range(2)]
    other = write_scores(tmp_path / "other", "3D-UNet", 0.8)
    first, second, third = CASES[:3]
    forget(folders[1], (first, "1"))
    # In the second case nobody has a distance: the reference has no such label.
    for folder in (*folders, other):
        forget(folder, (second, "2"))
    setting = setting_of(*folders, other)
    hd95 = setting.of(HD95, MEAN)
    assert np.isnan(hd95[0, 0])
    assert np.isnan(setting.of(HD95, 1)[0, 0])
    assert np.isfinite(hd95[1, 0])
    assert hd95[0, 1] == setting.of(HD95, 1)[0, 1]
    assert setting.cases[2] == third
    assert hd95[0, 2] == pytest.approx(setting.values[METRICS.index(HD95), 0, 1:, 2].mean())


def test_a_label_that_no_reference_holds_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In one fold it may be absent; only where no fold holds it, it goes."""
    folders = [
        write_scores(tmp_path / f"{name}{fold}", name, 0.9, cases=[f"case{fold}{n}" for n in range(2)])
        for name in ("3D-SegSync", "3D-UNet")
        for fold in range(2)
    ]

    def empty(*wanted: Path) -> None:
        for folder in wanted:
            rows = rows_of(folder / "cases.csv")
            for row in rows:
                if row["label"] == "2":
                    row.update(dice="1", hd_mm="", hd95_mm="", assd_mm="", volume_ml="0", lesions="0")
            with (folder / "cases.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)

    empty(*folders[::2])
    assert [set(run.labels) for run in read_runs([str(folder) for folder in folders])] == [{1, 2}] * 4
    empty(*folders)
    runs = read_runs([str(folder) for folder in folders])
    assert [set(run.labels) for run in runs] == [{1}] * 4
    assert f"{folders[0]}: label 2 (posterior): no reference holds it; it is left out" in caplog.text
    (setting,) = group_runs(runs, "3D-SegSync")
    assert dict(setting.labels) == {1: "anterior"}
    assert float(setting.of(DICE).max()) < 1


def test_folds_are_put_together(tmp_path: Path) -> None:
    halves = [
        write_scores(tmp_path / f"{fold}", "3D-SegSync", 0.9, cases=[f"case{fold}{n}" for n in range(3)])
        for fold in range(2)
    ]
    whole = write_scores(tmp_path / "whole", "3D-UNet", 0.8, cases=[f"case{f}{n}" for f in range(2) for n in range(3)])
    assert len(setting_of(*halves, whole).cases) == 6


def test_a_name_before_the_folder_is_the_systems(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "scores", "xLSTM-UNet", 0.9)
    assert read_run(str(folder)).name == "xLSTM-UNet"
    assert read_run(f"5 % of the labels={folder}").name == "5 % of the labels"
    odd = write_scores(tmp_path / "lr=0.1", "xLSTM-UNet", 0.9)
    assert read_run(str(odd)).name == "xLSTM-UNet"


def test_the_reference_comes_first_and_other_data_are_a_setting_of_their_own(tmp_path: Path) -> None:
    folders = [write_scores(tmp_path / name, name, skill) for name, skill in reversed(SYSTEMS.items())]
    crossed = write_scores(tmp_path / "x", "3D-UNet", 0.5, trained_on="mmwhs-ct")
    own, other = group_runs([read_run(str(folder)) for folder in (*folders, crossed)], "xLSTM-UNet")
    assert own.systems == ("xLSTM-UNet", "3D-UNet", "3D-SegSync")
    assert (other.title, other.systems) == ("hippocampus, trained on mmwhs-ct", ("3D-UNet",))


def test_runs_that_cannot_be_compared_are_told_in_one_line(tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one", "3D-SegSync", 0.9)

    def refused(match: str, *folders: object) -> None:
        with pytest.raises(InputError, match=match) as error:
            group_runs([read_run(str(folder)) for folder in folders], "3D-SegSync")
        assert "\n" not in str(error.value)

    (tmp_path / "empty").mkdir()
    refused(r"empty: expected scores of segsync-train evaluate .* found no cases\.csv", tmp_path / "empty")
    refused("at least two systems, found 3D-SegSync alone", one)
    refused("one: expected every run once, found it twice", one, one)
    fewer = write_scores(tmp_path / "fewer", "3D-UNet", 0.8, cases=["case00", "case01"])
    refused(r"same cases of every system, found 8 of 3D-SegSync and 2 of 3D-UNet \(no case02\)", one, fewer)
    seed = write_scores(tmp_path / "seed", "3D-SegSync", 0.9, cases=["case00", "case01"], seed=1)
    other = write_scores(tmp_path / "other", "3D-UNet", 0.8)
    refused("3D-SegSync: expected every case in 2 of its 2 runs, found case case02 in 1", one, seed, other)
    labels = write_scores(tmp_path / "labels", "3D-UNet", 0.8, labels={1: "lesion"})
    refused(r"labels: expected the labels of .*one \(1 anterior, 2 posterior\), found 1 lesion", one, labels)
    rules = write_scores(tmp_path / "rules", "3D-UNet", 0.8, rules="aims-tbi")
    refused(r"rules: expected the rules of .*one \(isles22\), found aims-tbi", one, rules)
    settings = {"seed": 1, "steps": 200, "data": {"kind": "folder", "folder": "x", "labelled": 1.0}}
    longer = write_scores(tmp_path / "longer", "3D-SegSync", 0.9, settings=settings)
    refused(r"longer: expected a seed or fold .* found steps 200 instead of 100; name one .*NAME=", one, longer, other)
    text = (other / "cases.csv").read_text().replace("hd95_mm", "hd90_mm")
    (other / "cases.csv").write_text(text)
    refused(r"cases\.csv: line 2: .* found 'hd95_mm'", one, other)
    (other / "cases.csv").write_text("\n".join((one / "cases.csv").read_text().splitlines()[:-1]))
    refused(r"cases\.csv: expected a line for each case and label, found 15 lines of 2 labels", one, other)
    (other / "system.json").write_text("{}")
    refused(r"system\.json: name: Field required", one, other)


def test_without_the_papers_system_the_first_is_the_reference() -> None:
    assert reference_of(["3D-UNet", "3D-SegSync"], None) == "3D-SegSync"
    assert reference_of(["3D-UNet", "3D-SegSync"], "3D-UNet") == "3D-UNet"
    assert reference_of(["mine", "theirs"], None) == "mine"

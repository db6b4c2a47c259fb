"""`docs/results/heart.py --smoke`: every system trained, scored and compared on six hearts; no image leaves them.

The six are drawn, small hearts of one window each, in folders as ACDC has them; the split is asked of ACDC itself.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import heart
import heart_page
import heart_study
import ledger
import numpy as np
import pytest

from builders import grid_of, write_image
from segsync_train.evaluation.metrics import RULES, score
from segsync_train.evaluation.summary import Row

GRID = grid_of((4, 32, 32), (10.0, 8.0, 8.0))


def draw_hearts(folder: Path) -> Path:
    """Six hearts in short axis: the left ventricle in its myocardium, the right beside it; labels as in ACDC."""
    y, x = np.indices(GRID.size_zyx[1:])
    for number in range(6):
        rng = np.random.default_rng(number)
        centre = 16 + rng.uniform(-2, 2, 2)
        radius = np.hypot(y - centre[0], x - centre[1])
        label = np.where(radius < 4, 3, np.where(radius < 7, 2, 0)).astype(np.uint8)
        label[(label == 0) & (np.hypot(y - centre[0], x - centre[1] + 8) < 5)] = 1
        image = 100 + 60 * label + 10 * rng.standard_normal(GRID.size_zyx)
        write_image(folder / "imagesTr" / f"patient{number}_0000.nii.gz", image.astype(np.float32), GRID)
        write_image(folder / "labelsTr" / f"patient{number}.nii.gz", np.broadcast_to(label, GRID.size_zyx), GRID)
    return folder


def test_every_system_is_on_the_page_and_a_second_call_needs_the_kept_figures_alone(tmp_path: Path) -> None:
    folders = {"--data": draw_hearts(tmp_path / "hearts"), "--runs": tmp_path / "runs", "--docs": tmp_path / "docs"}
    arguments = ["--smoke", *(str(word) for pair in folders.items() for word in pair)]
    heart.main(arguments)
    path = tmp_path / "docs" / "results" / "heart.md"
    page = path.read_text()
    for one in heart_study.SYSTEMS:
        assert f"| {one.name} |" in page
    assert "| 2 and 2 |" in page, "the claim's pair, its seeds"
    assert not list((tmp_path / "docs" / "images").glob("*cases*"))
    assert {file.suffix for file in (tmp_path / "docs" / "results" / "heart").iterdir()} == {".csv"}
    shutil.rmtree(tmp_path / "runs")  # the machine is lost
    heart.main(arguments)
    assert not (tmp_path / "runs").exists(), "nothing is trained again"
    # But for the commit, which the first line names.
    assert path.read_text().partition(" on ACDC")[2] == page.partition(" on ACDC")[2]


def test_what_is_tried_is_never_tried_on_the_test_hearts(shared_data: Path) -> None:
    options = argparse.Namespace(data=shared_data / "acdc", smoke=False, explore=False)
    whole = heart_study.divided(options)
    options.explore = True
    tried = heart_study.divided(options)
    assert (len(whole.training), len(whole.test)) == (79, 20)
    assert (len(tried.training), len(tried.test)) == (64, 15)
    assert not set(whole.test) & {*tried.training, *tried.test}
    assert whole.training == (*tried.training, *tried.test)


def test_the_claim_comes_first_and_other_settings_are_another_run(shared_data: Path) -> None:
    options = heart.parsed(["--data", str(shared_data / "acdc")])
    hearts = heart_study.divided(options)
    order = heart_study.cells(hearts, options)
    assert [cell.system.key for cell in order[:2]] == ["segsync", "scratch"]
    assert [(cell.seed, cell.labelled) for cell in order[:12]] == [
        (seed, count) for seed in (0, 1, 2) for count in (2, 2, 5, 5)
    ]
    one = heart_study.key_of(order[1], hearts, options)
    assert heart_study.key_of(order[1], hearts, heart.parsed(["--data", str(shared_data / "acdc")])) == one
    other = heart.parsed(["--data", str(shared_data / "acdc"), "--set", "steps=7"])
    assert heart_study.key_of(order[1], hearts, other).settings != one.settings


def test_a_run_that_was_killed_between_both_files_is_run_again(tmp_path: Path, mask_pair: Row) -> None:
    kept = ledger.Ledger(tmp_path)
    first, second = (ledger.Key("a, b", 2, seed, "0123") for seed in (0, 1))
    for key in (first, second):
        kept.add(ledger.Made(key, "c", "a CPU", 5, 1, 0, 2.5), [mask_pair])
    lines = (tmp_path / ledger.RUNS).read_text().splitlines(keepends=True)
    (tmp_path / ledger.RUNS).write_text("".join(lines[:-1]))
    again = ledger.Ledger(tmp_path)
    assert list(again.runs) == [first]
    again.add(ledger.Made(second, "d", "a CPU", 5, 1, 0, 2.5), [mask_pair])
    assert len((tmp_path / ledger.SCORES).read_text().splitlines()) == 3, "each run's row once, below the head"
    assert ledger.Ledger(tmp_path).dice(second) == {("p", "1"): mask_pair.scores.dice}


def test_two_processes_may_add_to_the_same_figures(tmp_path: Path, mask_pair: Row) -> None:
    one, other = ledger.Ledger(tmp_path), ledger.Ledger(tmp_path)
    for number, kept in enumerate((one, other, one)):
        kept.add(ledger.Made(ledger.Key("a", 2, number, "0123"), "c", "a CPU", 5, 1, 0, 2.5), [mask_pair])
    assert [key.seed for key in ledger.Ledger(tmp_path).runs] == [0, 1, 2]


def test_runs_of_another_budget_have_a_table_of_their_own(tmp_path: Path, mask_pair: Row) -> None:
    kept, now = ledger.Ledger(tmp_path), ledger.Key("a", 2, 0, "now")
    wanted = {heart_study.Cell(heart_study.SYSTEMS[0], 2, 0): now}
    kept.add(ledger.Made(now, "c", "a CPU", 5, 900, 0, 2.5), [mask_pair])
    assert list(heart_page.other_budgets(kept, wanted)) == []
    for seed in (0, 1):
        kept.add(ledger.Made(ledger.Key("a", 2, seed, "then"), "c", "a CPU", 5, 300, 0, 2.5), [mask_pair])
    lines = list(heart_page.other_budgets(kept, wanted))
    assert "| 300 | 2 | a | 0.500, 0.500 |" in lines
    assert not any("900" in line for line in lines)


@pytest.fixture
def mask_pair() -> Row:
    """A case whose two masks share half of their voxels."""
    reference, predicted = np.zeros((2, 4, 4, 4), dtype=bool)
    reference[1, 1, :2] = predicted[1, 1, 1:3] = True
    return Row("p", 1, "heart", score(reference, predicted, (1.0, 1.0, 1.0), RULES["isles22"]))


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Iterator[None]:
    """The scripts are no package: other tests import their own."""
    yield
    for name in ("heart", "heart_study", "heart_page", "ledger"):
        sys.modules.pop(name, None)

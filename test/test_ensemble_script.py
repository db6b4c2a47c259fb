"""docs/results/ensemble.py in miniature: plan, two folds, an ensemble, and a page that says what its figures say."""

import re
from pathlib import Path

import ensemble
import numpy as np
import pytest

from segsync.bundle import load_bundle
from segsync_train.data.splits import read_split


def test_the_page_of_the_ensemble_is_made_from_cases(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases that test are in no fold; the table's difference is the ensemble's to the mean of its members."""
    cases, runs = tmp_path / "cases", tmp_path / "runs"
    for part in ("imagesTr", "labelsTr"):
        (cases / part).mkdir(parents=True)
        for path in sorted((shared_data / "hippocampus" / part).glob("*.nii.gz"))[:9]:
            (cases / part / path.name).symlink_to(path)
    for part in ("results", "images"):
        (tmp_path / "docs" / part).mkdir(parents=True)
    small = "network.overrides={widths: [4, 8], strides_zyx: [[1, 1, 1], [2, 2, 2]], vil_stages: [1]}"
    arguments = ["--data", cases, "--runs", runs, "--docs", tmp_path / "docs", "--test", 3, "--folds", 2]
    for setting in (small, "steps=4", "patch_zyx=[16, 16, 16]", "workers=0", "batch=1"):
        arguments += ["--set", setting]
    monkeypatch.setattr("sys.argv", ["ensemble.py", *map(str, arguments)])
    ensemble.main()
    splits = [read_split(runs / "cv" / f"fold-{fold}" / "split.json") for fold in range(2)]
    folds = {name for split in splits for name in (*split.training, *split.validation)}
    assert len(folds) == 6
    assert len(load_bundle(runs / "weights" / "hippocampus").networks) == 2
    text = (tmp_path / "docs" / "results" / "ensemble.md").read_text()
    assert (tmp_path / "docs" / "images" / "ensemble.png").stat().st_size > 0
    assert "6 cases were planned for and cross-validated, 3 others" in text
    (row,) = re.findall(r"\| Dice \| (\S+) (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|", text)
    one, other, mean, best, together, difference = map(float, row)
    rounded = 0.00106  # two figures of three decimals and one of four, each off by half of its last one
    assert mean == pytest.approx((one + other) / 2, abs=rounded)
    assert best == max(one, other)
    assert difference == pytest.approx(together - mean, abs=rounded)


@pytest.mark.parametrize(
    ("gain", "said"),
    [(0.02, "is better than the mean"), (-0.02, "is worse than the mean"), (0.0, "do not tell the ensemble's Dice")],
)
def test_the_conclusion_is_decided_by_the_interval(gain: float, said: str) -> None:
    rng = np.random.default_rng(0)
    members = 0.8 + 0.02 * rng.standard_normal((5, 40))
    together = members.mean(axis=0) + gain + 0.01 * rng.standard_normal(40)
    assert said in ensemble._verdict(np.concatenate([members, together[None]]))

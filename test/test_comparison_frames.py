"""The comparison's data frames, for notebooks: they hold what the files say and the tables show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_folders import CASES, rows_of, write_scores
from segsync_train.comparison.frames import read_frames, within
from segsync_train.comparison.grouping import group_runs
from segsync_train.comparison.scores import HD95, METRICS, read_runs
from segsync_train.comparison.tables import data_table

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"


def test_the_frames_hold_what_the_files_and_the_tables_say(tmp_path: Path) -> None:
    """By hand from `cases.csv`: two seeds of one system, their mean in each case; and ranks that sum to one."""
    seeds = [write_scores(tmp_path / f"{seed}", "3D-SegSync", 0.9, seed=seed) for seed in range(2)]
    frames = read_frames([*seeds, write_scores(tmp_path / "other", "3D-UNet", 0.8)])
    by_hand = [float(row["hd95_mm"]) for seed in seeds for row in rows_of(seed / "cases.csv") if row["label"] == "2"]
    own = frames.scores.query("system == '3D-SegSync' and name == 'posterior'")
    assert own["case"].tolist() == list(CASES)
    assert own["hd95_mm"].tolist() == pytest.approx(np.reshape(by_hand, (2, 8)).mean(axis=0))
    row = frames.summary.query("system == '3D-UNet' and name == 'posterior' and metric == 'hd95_mm'").iloc[0]
    other = frames.scores.query("system == '3D-UNet' and name == 'posterior'")["hd95_mm"]
    assert row["difference"] == pytest.approx(other.mean() - own["hd95_mm"].mean())
    assert (row["cases"], row["compared"], row["seeds"], row["reference_seeds"]) == (8, 8, 1, 2)
    dice = frames.ranks.query("metric == 'dice'").set_index("system")
    assert dice["rank"].to_dict() == {"3D-SegSync": 1, "3D-UNet": 2}
    assert (dice["at_1"] + dice["at_2"]).tolist() == pytest.approx([1, 1])
    setting = group_runs(read_runs([str(folder) for folder in (*seeds, tmp_path / "other")]), "3D-SegSync")[0]
    table = data_table(setting, within(frames.summary, setting), "3D-SegSync", ())
    cell = table.sections[2].rows[1][1 + METRICS.index(HD95)]
    assert cell.startswith(f"{other.mean():.2f} ± {other.std():.2f}")


def test_the_how_tos_frames_are_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of Python in docs/how-to/compare.md, word for word, beside two folders of scores."""
    block = (HOW_TO / "compare.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    for name, skill in (("pretrained", 0.9), ("scratch", 0.8)):
        write_scores(tmp_path / "runs" / "scores" / name, name, skill)
    told: dict[str, Any] = {}
    exec(block, told)
    assert told["worst"]["system"].tolist()[0] == "scratch"
    assert told["difference"]["name"].tolist() == ["mean of labels", "anterior", "posterior"]
    assert (told["difference"]["low"] > 0).all()
    assert told["ranks"].loc["pretrained", ("rank", "dice")] == 1

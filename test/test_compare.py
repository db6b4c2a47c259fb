"""`segsync-train compare`: every file from folders of scores, and refusals in one line."""

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score_folders import SYSTEMS, rows_of, with_masks, write_scores
from segsync_train.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["segsync-train", "compare", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


class Page(HTMLParser):
    """Everything on a page that could load something, and the text of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_every_file_is_written_and_says_what_the_scores_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = with_masks(tmp_path, SYSTEMS)
    crossed: dict[str, Any] = {"data": "mmwhs-mr", "trained_on": "mmwhs-ct", "labels": {1: "ball"}}
    folders += [write_scores(tmp_path / f"x-{name}", name, skill - 0.2, **crossed) for name, skill in SYSTEMS.items()]
    out = tmp_path / "out"
    assert run(monkeypatch, *folders, "-o", out, "--paper") == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    settings = ("mmwhs-ct", "mmwhs-mr-from-mmwhs-ct")
    names = ("overview", "budget", *(f"data-{setting}" for setting in settings))
    tables = [f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")]
    assert sorted(path.name for path in (out / "tables").iterdir()) == sorted(tables)
    figures = {"by-data", "across", "significance", "ranking", "cases-mmwhs-ct", *(f"labels-{s}" for s in settings)}
    assert {path.stem for path in (out / "figures").iterdir()} == figures
    for row in rows_of(out / "tables" / "data-mmwhs-ct.csv"):
        if row["metric"] == "dice":
            dice = [float(one["dice"]) for one in rows_of(tmp_path / row["system"] / "cases.csv")]
            assert float(row["mean"]) == pytest.approx(np.mean(dice), rel=1e-4)
            assert float(row["sd"]) == pytest.approx(np.std(dice, ddof=1), rel=1e-4)
            assert (row["p"] == "") == (row["system"] == "3D-SegSync")
    markdown = (out / "tables" / "data-mmwhs-ct.md").read_text()
    assert "| SwinMM (published) | 0.910 ± 0.030 | 17.33 ± 2.80 |" in markdown
    assert "mmwhs-ct: the paper's order" in markdown
    assert "published" not in (out / "tables" / "data-mmwhs-mr-from-mmwhs-ct.md").read_text()
    text = (out / "index.html").read_text(encoding="utf-8")
    shown = Page(text)
    assert shown.tags.count("img") == len(figures)
    assert all(source.startswith("data:image/png;base64,") for source in shown.sources)
    assert "script" not in shown.tags
    assert not re.search(r"url\(|@import|https?:", text)
    for source in shown.sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert min(picture.size) > 300


def test_the_command_refuses_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_scores(tmp_path / "one", "3D-SegSync", 0.9)
    assert run(monkeypatch, one, "-o", tmp_path / "out") == 3
    assert capsys.readouterr().err.count("\n") == 1
    other = write_scores(tmp_path / "other", "3D-UNet", 0.8)
    assert run(monkeypatch, one, other, "-o", tmp_path / "out", "--reference", "UNet") == 3
    assert "--reference: expected one of 3D-SegSync, 3D-UNet, found 'UNet'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert run(monkeypatch, one, other, "-o", tmp_path / "file") == 5

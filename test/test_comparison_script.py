"""`make comparison-smoke`: every network and pretext trained, scored and compared on eight real cases.

The peers' pretexts on the xLSTM-UNet are left to `test_heart_script`, which trains each of them.
"""

import re
import sys
from pathlib import Path

import comparison
import pytest

SYSTEMS = tuple(one for one in comparison.CONTESTANTS if not one.name.endswith(", xLSTM-UNet"))


def test_every_system_gives_every_table_and_figure(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "CONTESTANTS", SYSTEMS)
    arguments = ["--data", str(shared_data / "hippocampus"), "--runs", str(tmp_path / "runs")]
    arguments += ["--docs", str(tmp_path / "docs"), "--cases", "8", "--fractions", "1.0"]
    # At 2 mm a case is one window.
    both = ["steps=1", "spacing_zyx=[2, 2, 2]", "workers=0", "device=cpu"]
    for value in (*both, "batch=1", "ema=null", "validation.overlays=0"):
        arguments += ["--set", value]
    for value in (*both, "batch=2", "held_out.volumes=2", "held_out.fraction=0.4"):
        arguments += ["--pretrain-set", value]
    comparison.main(arguments)

    page = (tmp_path / "docs" / "results" / "comparison.md").read_text()
    for one in SYSTEMS:
        assert f"| {one.name} |" in page
    pictures = {path.name for path in (tmp_path / "docs" / "images").iterdir()}
    for figure in ("by-data", "labels-hippocampus", "cases-hippocampus", "significance", "ranking"):
        assert f"comparison-100-{figure}.png" in pictures
        assert re.search(rf"\(\.\./images/comparison-100-{figure}\.png\)\n\n\*\w", page), "a figure and its caption"
    folder = tmp_path / "runs" / "comparison-100"
    for table in ("overview", "budget", "data-hippocampus"):
        for ending in ("csv", "md", "tex"):
            assert (folder / "tables" / f"{table}.{ending}").stat().st_size > 0
    assert (folder / "index.html").is_file()
    sys.modules.pop("comparison")

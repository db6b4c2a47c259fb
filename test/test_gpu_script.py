"""`make gpu` runs whole without a GPU, so that the first day with one is not spent on mending it."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "bench" / "gpu.py"


def test_the_dry_run_writes_the_whole_page(tmp_path: Path) -> None:
    page = tmp_path / "performance-gpu.md"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dry", "--output", page], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["left_out"] == []
    sections = {row["section"] for row in facts["rows"]}
    assert len(sections) == 5
    assert all(f"## {section}" in page.read_text(encoding="utf-8") for section in sections)
    assert all(row.get("as expected", True) for row in facts["rows"])
    assert all(row["Dice with the CPU's"] > 0.999 for row in facts["rows"] if "Dice with the CPU's" in row)

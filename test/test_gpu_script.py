"""`make gpu OPTIONS=--dry`: every step goes through on a processor, and float16 gives the masks that float32 gives."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import gpu
import gpu_torch
import pytest


def test_the_runtime_in_float16_segments_as_in_float32_and_refuses_the_gpus_that_are_not_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    gpu.main(["--dry", "--output", str(page), "--only", "provider", "--only", "devices"])
    facts = json.loads(page.with_suffix(".json").read_text())
    assert not facts["left_out"]
    cases, window, commands = (
        [row for row in facts["rows"] if key in row] for key in ("mask equal", "ms", "exit code")
    )
    assert [(row["mask equal"], row["largest difference of a probability"] < 0.01) for row in cases] == [
        (True, True)
    ] * 2
    assert 0 < window[0]["largest difference from the CPU"] < 0.01, "float16, and nothing but its rounding"
    assert all(row["as expected"] for row in commands)
    assert sorted(row["exit code"] for row in commands) == [0, 6, 6]
    assert "| cpu, float16 | yes |" in page.read_text()


@pytest.mark.parametrize(
    ("step", "count", "left_out"), [(gpu_torch.windows, 2, 1), (gpu_torch.training, 1, 0), (gpu_torch.mlstm, 2, 0)]
)
def test_torch_steps_measure_and_say_what_a_dry_run_leaves_out(
    step: Callable[[bool], Iterator[gpu.Row]], count: int, left_out: int
) -> None:
    rows = list(step(True))
    json.dumps(rows, allow_nan=False)
    assert sum("left out" in row for row in rows) == left_out
    measured = [row for row in rows if "left out" not in row]
    assert len(measured) >= count
    assert {section.title for section in gpu.sections(measured)} == {measured[0]["section"]}
    assert all(row.get("largest difference from the CPU", 0) < 1e-3 for row in measured)


def test_a_step_that_breaks_is_on_the_page_with_what_it_said_and_the_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "broken.py"
    script.write_text("""print('{"section": "Windows", "ms": 1.0}', flush=True)\nraise SystemExit('no such driver')""")
    monkeypatch.setattr(gpu, "STEPS", (gpu.Step("windows", str(script), torch=True),))
    with pytest.raises(SystemExit, match="1"):
        gpu.main(["--dry", "--output", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert "- windows: no such driver" in page
    assert "## Windows" in page

"""The tree of files that docs/naming.md shows gives the cases that the page says."""

import re
from pathlib import Path

from segsync.cases import find_cases
from segsync.tasks import TASKS

PAGE = Path(__file__).parents[1] / "docs" / "naming.md"


def files_of_the_tree(text: str) -> list[Path]:
    """The files that a drawn tree names; folders end in a slash."""
    files: list[Path] = []
    folders: list[str] = []
    for line in text.strip().splitlines():
        drawn = re.match(r"[│ ├└─]*", line)
        assert drawn
        depth = len(drawn.group()) // 4
        name = line[drawn.end() :].split()[0]
        folders[depth:] = [name]
        if not name.endswith("/"):
            files.append(Path(*folders))
    return files


def test_the_tree_gives_the_cases_that_the_page_names(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    files = files_of_the_tree(page.split("```text\n")[1].split("```")[0])
    assert len(files) == 12
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    cases, failed = find_cases(tmp_path / "study", TASKS["isles22"], {})
    assert failed == []
    sentence = next(line for line in page.splitlines() if line.startswith("For `isles22`"))
    names = re.findall(r"`([^`]+)`", sentence)[1:]
    assert sorted(case.name for case in cases) == sorted(names)
    channels = {case.name: set(case.channels) for case in cases}
    assert channels["sub-01"] == channels[names[-1]] == {"dwi", "adc", "flair"}
    assert channels["case7"] == {"dwi", "adc"}

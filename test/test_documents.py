"""The documents: their links lead somewhere, and the README's figures are those of the pages that it names."""

import re
from pathlib import Path

import pytest

from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("weights/*/*.md"), *ROOT.glob("test/input/*.md")]
)
LINK = re.compile(r"\]\(([^)#\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_to_files(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("package", ["app/segsync", "training/segsync_train"])
def test_the_map_names_every_module(package: str) -> None:
    """What may import what is held by `make lint`; that nothing is missing from the page, here."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(name for name in modules - {"__init__", "__pycache__"} if f"`{name}`" not in page) == []


def test_figures_of_the_readme_are_those_of_the_pages_it_names() -> None:
    """Every decimal number of its first screen, and of a row of its table of results, stands on the page linked."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[\w-]+\]\((docs/\S+\.md)\) (.*)$", text, flags=re.MULTILINE)
    opening = text.split("\n## ")[0]
    rows.append(("docs/results/real.md", opening[opening.index("*For research") :]))
    assert len(rows) > 5
    for page, words in rows:
        figures = re.findall(r"\d+\.\d+", words)
        measured = (ROOT / page).read_text(encoding="utf-8")
        assert [figure for figure in figures if figure not in measured] == [], page


def test_the_settings_for_data_of_ones_own_are_settings(tmp_path: Path) -> None:
    """The block of YAML in docs/datasets.md, whose base lies where the text puts the file."""
    block = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    file = tmp_path / "my-lesions.yaml"
    file.write_text(block.replace("base: ", f"base: {ROOT / 'training' / 'configs'}/"))
    config = load_settings(RunConfig, file)
    assert (config.task, [channel.name for channel in config.channels]) == ("my-lesions", ["flair", "t1"])

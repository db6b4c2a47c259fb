"""What `mkdocs` needs beside its plugins: files outside docs/ that pages link to, and the commands' help as a page."""

import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
MARKER = "<!-- commands -->"
COMMANDS = {"segsync": "segsync.cli", "segsync-train": "segsync_train.cli"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Model cards and recipes become files of the site, so that links to them lead somewhere."""
    for path in (*ROOT.glob("weights/*/MODEL_CARD.md"), *ROOT.glob("training/configs/*.yaml"), ROOT / "CHANGELOG.md"):
        inside = path.relative_to(ROOT).as_posix()
        file = File.generated(config, inside, content=path.read_text(encoding="utf-8"))
        file.inclusion = file.inclusion.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs/ are turned to where `on_files` puts their targets; folders, which are no page, lose theirs."""
    here = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[1]))
        return (
            link[1]
            if target.startswith("docs/")
            else posixpath.relpath(target, here.removeprefix("docs").lstrip("/") or ".")
        )

    markdown = re.sub(r"\[([^\]]+)\]\((?:\.\./)+training/configs/?\)", r"\1", markdown)
    markdown = LINK.sub(moved, markdown)
    return markdown.replace(MARKER, "\n".join(map(_help_of, COMMANDS))) if MARKER in markdown else markdown


def _help_of(command: str) -> str:
    """Typer's own pages of a command."""
    call = [sys.executable, "-m", "typer", COMMANDS[command], "utils", "docs", "--name", command]
    text = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)

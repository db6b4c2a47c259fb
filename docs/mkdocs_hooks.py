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
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)\)")
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
    """Links out of docs/ lead to what `on_files` added; those to folders and code, which are no pages, lose theirs."""
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", here, link[2]))
        if target.startswith("docs/"):
            return link[0]
        return f"[{link[1]}]({posixpath.relpath(target, here or '.')})" if files.get_file_from_path(target) else link[1]

    markdown = LINK.sub(moved, markdown)
    return markdown.replace(MARKER, "\n".join(map(_help_of, COMMANDS))) if MARKER in markdown else markdown


def _help_of(command: str) -> str:
    """Typer's own pages of a command."""
    call = [sys.executable, "-m", "typer", COMMANDS[command], "utils", "docs", "--name", command]
    text = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)

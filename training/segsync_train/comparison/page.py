"""Tables and figures as one HTML file that needs nothing else: `templates/chapters.html`, filled."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from segsync.templating import render
from segsync_train.comparison.table import Bold, Table


@dataclass(frozen=True)
class Picture:
    """A figure: the name of its file, its bytes, and what it shows."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Chapter:
    """A heading with its tables and figures."""

    title: str
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


def page(title: str, summary: str, chapters: Sequence[Chapter]) -> str:
    """The HTML page."""
    return render(
        "chapters.html",
        package="segsync_train.comparison",
        title=title,
        subtitle=summary,
        chapters=chapters,
        is_bold=lambda cell: isinstance(cell, Bold),
        base64=lambda content: base64.b64encode(content).decode("ascii"),
    )

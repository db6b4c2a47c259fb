"""Tables and figures as one HTML file that needs nothing else: no script, no font, no network."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from segsync.page import STYLE
from segsync_train.comparison.table import Table

OWN_STYLE = """
main { max-width: 84rem; }
h3 { margin: 1.6rem 0 .4rem; font-size: 1rem; }
figure img { min-width: 0; max-width: 100%; width: auto; margin: 0 auto; background: #fff; }
th.section { font-style: italic; font-weight: normal; padding-top: .9rem; }
"""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header><h1>$title</h1><span class="research">For research, not for care</span></header>
<p class="faint">$summary</p>
$parts
</main>
</body>
</html>
""")


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
    return PAGE.substitute(
        title=html.escape(title),
        style=STYLE + OWN_STYLE,
        summary=html.escape(summary),
        parts="\n".join(map(_chapter, chapters)),
    )


def _chapter(chapter: Chapter) -> str:
    pictures = "".join(map(_figure, chapter.pictures))
    tables = "".join(table.html() for table in chapter.tables)
    return f"<section><h2>{html.escape(chapter.title)}</h2>{pictures}{tables}</section>"


def _figure(picture: Picture) -> str:
    caption = html.escape(picture.caption)
    png = base64.b64encode(picture.png).decode("ascii")
    return f'<figure><img src="data:image/png;base64,{png}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'

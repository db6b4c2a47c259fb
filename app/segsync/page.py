"""The page of a report, which a person reads: `templates/report.html`, filled."""

import base64
import json
from collections.abc import Mapping

from pydantic import JsonValue

from segsync.montage import Picture, colour_of
from segsync.record import Report
from segsync.templating import render

#: Rows of the table; further lesions are summed up in one line, the CSV has them all.
ROWS = 50
#: Values of more lines than this are folded away; the JSON has them as well.
FOLDED = 40


def page(report: Report, picture: Picture, png: bytes, csv_name: str) -> str:
    """The HTML page of a report.

    Args:
        report: What it says.
        picture: The montage.
        png: The same as a file's bytes.
        csv_name: The file that lists every lesion.

    Returns:
        One file that needs nothing else.
    """
    names = {value: label.name for value, label in report.labels.items()}
    return render(
        "report.html",
        title=report.case,
        subtitle=report.task_title,
        report=report,
        picture=picture,
        png=base64.b64encode(png).decode("ascii"),
        alt=f"Axial slices of {report.reference.channel}: {summary(report)}",
        csv_name=csv_name,
        colours={value: colour_of(names, value) for value in names},
        rows=ROWS,
        folded=FOLDED,
        ml=_ml,
        counted=_counted,
        percent="{:.0%}".format,
        pretty=_pretty,
    )


def summary(report: Report) -> str:
    """The finding in a few words: `38.2 ml in 5 lesions`, or `No lesion found`."""
    if not report.lesion_count:
        return "No lesion found"
    return f"{_ml(report.volume_ml)} in {_counted(report.lesion_count, 'lesion')}"


def _ml(volume: float) -> str:
    digits = 0 if volume >= 100 else 1 if volume >= 10 else 2 if volume >= 1 else 3
    return f"{volume:.{digits}f} ml"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _pretty(values: Mapping[str, JsonValue]) -> list[str]:
    return json.dumps(values, indent=2, ensure_ascii=False).splitlines()

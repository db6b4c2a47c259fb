"""A result as files for people and programs: JSON, a table of lesions, a picture and a page."""

import contextlib
import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from segsync.atomic import part_of, why_not
from segsync.errors import OutputError
from segsync.lesions import Lesion, measure
from segsync.montage import draw
from segsync.page import page, summary
from segsync.predict import Result
from segsync.record import record

log = logging.getLogger(__name__)

CSV_COLUMNS = (
    "case",
    "lesion",
    "label",
    "label_name",
    "voxels",
    "volume_ml",
    "largest_diameter_mm",
    "centroid_x_lps_mm",
    "centroid_y_lps_mm",
    "centroid_z_lps_mm",
)


def write_report(result: Result, prefix: Path, arguments: Mapping[str, object]) -> list[Path]:
    """Write PREFIX_report.json, PREFIX_lesions.csv, PREFIX_montage.png and PREFIX_report.html.

    Files appear whole under their names, and none where one cannot be written.

    Args:
        result: Of a case.
        prefix: Folder and beginning of the files' names.
        arguments: What the user asked for, by name.

    Returns:
        The files' paths.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    spec = result.bundle.spec
    lesions = measure(result.mask, result.grid, spec.labels, spec.regions)
    report = record(result, lesions, arguments)
    picture = draw(result, summary(report))
    png = io.BytesIO()
    picture.image.save(png, "PNG")
    csv_path = prefix.with_name(f"{prefix.name}_lesions.csv")
    text = page(report, picture, png.getvalue(), csv_path.name)
    files = {
        prefix.with_name(f"{prefix.name}_report.json"): f"{report.model_dump_json(indent=2)}\n".encode(),
        csv_path: _csv(report.case, lesions).encode(),
        prefix.with_name(f"{prefix.name}_montage.png"): png.getvalue(),
        prefix.with_name(f"{prefix.name}_report.html"): text.encode(),
    }
    _write_all(files)
    log.info("%s: report in %s", report.case, prefix.with_name(f"{prefix.name}_report.html"))
    return list(files)


def _csv(case: str, lesions: Sequence[Lesion]) -> str:
    """A row a lesion. Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in lesions:
        writer.writerow(
            [
                _cell(case),
                one.number,
                one.label,
                _cell(one.label_name),
                one.voxels,
                f"{one.volume_ml:.6g}",
                f"{one.largest_diameter_mm:.3f}",
                *(f"{mm:.3f}" for mm in one.centroid_lps_mm),
            ]
        )
    return out.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _write_all(files: Mapping[Path, bytes]) -> None:
    parts = {path: part_of(path) for path in files}
    path, done = next(iter(files)), []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            parts[path].write_bytes(content)
        for path, part in parts.items():
            part.replace(path)
            done.append(path)
    except OSError as error:
        for written in done:
            written.unlink(missing_ok=True)
        raise OutputError(f"{path}: expected to write the report, found {why_not(path.parent, error)}") from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):  # nothing was written where there is not even a folder
                part.unlink(missing_ok=True)

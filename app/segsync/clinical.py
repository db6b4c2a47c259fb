"""Numbers of a patient beside the images, such as age and NIHSS: read from JSON and tables."""

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from segsync.bundle import ScalarSpec
from segsync.errors import InputError

#: Columns of a table that name the patient of a row.
WHOSE = ("participant_id", "subject", "subject_id", "case", "case_id", "patient_id", "name")
MISSING = ("", "n/a", "na", "nan", "none", "null", "unknown", "?")
WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def value_of(scalar: ScalarSpec, clinical: Mapping[str, object]) -> float | None:
    """A patient's number.

    Args:
        scalar: What it is called.
        clinical: What is known, tables within tables as well.

    Returns:
        The number, or None where it is missing.

    Raises:
        ValueError: The entry is not a number.
    """
    wanted = {_simple(name) for name in scalar.names}
    for key, said in _entries(clinical):
        if _simple(key) in wanted:
            return _number(said, {**WORDS, **{word.casefold(): number for word, number in scalar.words.items()}})
    return None


def _entries(clinical: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, said in clinical.items():
        if isinstance(said, Mapping):
            yield from _entries(said)
        else:
            yield str(key), said


def _simple(name: str) -> str:
    """`NIHSS at admission` and `nihss_at_admission` are one name."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _number(said: object, words: Mapping[str, float]) -> float | None:
    text = str(said).strip().casefold()
    if said is None or text in MISSING:
        return None
    number = words[text] if text in words else float(text.replace(",", "."))
    return number if math.isfinite(number) else None


def read_clinical(path: Path, names: Collection[str], *, alone: bool = True) -> dict[str, object]:
    """What a file says of one patient.

    Args:
        path: JSON: an object, or one of objects by the patients' names. CSV or TSV: a column that names the patients
            (`participant_id`, `case`, …) and a row of each, or a single row without such a column.
        names: The patient's and the case's names.
        alone: Whether the file may be of this patient without naming anybody; False where it is read for several.

    Returns:
        By column or key; empty where the file says nothing of the patient.

    Raises:
        InputError: The file is no such file, or names nobody although it is read for several patients.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            said = json.loads(text)
            if not isinstance(said, dict):
                raise ValueError(f"{type(said).__name__} in place of an object")
            own = next((said[name] for name in names if isinstance(said.get(name), dict)), None)
            tables = bool(said) and all(isinstance(entry, dict) for entry in said.values())
            if own is None and tables and (len(said) > 1 or not alone):
                return {}  # of other patients
            return _unnamed(said, alone) if own is None else own
        return _row(text, names, alone)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: expected clinical data as JSON, CSV or TSV, found {error}; correct the file"
        ) from error


def _unnamed(said: dict[str, object], alone: bool) -> dict[str, object]:
    """What is said without a patient's name: of the only one."""
    if not alone:
        raise ValueError("no patient's name in it, for several cases")
    return said


def _row(text: str, names: Collection[str], alone: bool) -> dict[str, object]:
    first = text.partition("\n")[0]
    delimiter = max("\t,;", key=first.count)
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    whose = next((column for column in (rows[0] if rows else ()) if column and column.casefold() in WHOSE), None)
    if whose is not None:
        return next((dict(row) for row in rows if (row[whose] or "").strip() in names), {})
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows and no column that names the patients ({WHOSE[0]})")
    return _unnamed(dict(rows[0]), alone)

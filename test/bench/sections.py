"""What every benchmark gives: a table with its title."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A table of the page; every row has a cell for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

"""What every benchmark gives: a table with its title, for the terminal and for a page."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text


def amount(value: float, unit: str) -> str:
    """A figure by three digits or so; a count has no unit."""
    digits = 0 if value >= 100 or not unit else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} {unit}".rstrip()


@dataclass(frozen=True)
class Pair:
    """What segsync and a peer took in one run: the less, the better.

    Attributes:
        what: That was done.
        peer: Who else did it.
        ours: segsync's figure.
        theirs: The peer's.
        unit: Of both, as `s` or `MiB`; empty for a count.
    """

    what: str
    peer: str
    ours: float
    theirs: float
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """The peer's figure by segsync's: above 1, segsync is faster or smaller."""
        return self.theirs / self.ours

    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        figures = (amount(figure, self.unit) for figure in (self.ours, self.theirs))
        return (self.what, *figures, f"{self.ratio:.2f}", self.peer)


PAIR_COLUMNS = ("", "segsync", "peer", "peer / segsync", "which peer")


@dataclass(frozen=True)
class Section:
    """A table of the page; every row has a cell for each column.

    Attributes:
        title: Its heading.
        columns: Their names.
        rows: The cells.
        note: What the reader must know, above the table.
        pairs: What of it sets segsync beside a peer.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    pairs: tuple[Pair, ...] = ()

    def table(self) -> Table:
        """For the terminal."""
        table = Table(*self.columns, title=self.title, title_justify="left", caption=Text(self.note))
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For the page."""
        rows = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return "\n\n".join(part for part in (f"## {self.title}", self.note, table) if part) + "\n"


def compared(title: str, pairs: Sequence[Pair], note: str = "") -> Section:
    """A table of nothing but pairs."""
    return Section(title, PAIR_COLUMNS, tuple(pair.cells() for pair in pairs), note, tuple(pairs))


def slower(sections: Iterable[Section]) -> Section:
    """Every pair in which a peer is ahead, the furthest first."""
    behind = [(pair, section) for section in sections for pair in section.pairs if round(pair.ratio, 2) < 1]
    rows = tuple((section.title, *pair.cells()) for pair, section in sorted(behind, key=lambda found: found[0].ratio))
    note = (
        "All of this run that takes segsync longer, or more memory, than a peer; the tables below hold the rest."
        if rows
        else "Nothing in this run."
    )
    return Section("Slower than a peer", ("table", *PAIR_COLUMNS), rows, note)

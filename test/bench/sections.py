"""What every benchmark gives: a table with its title, for the terminal and for a page."""

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Section:
    """A table of the page; every row has a cell for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def table(self) -> Table:
        """For the terminal."""
        table = Table(*self.columns, title=self.title, title_justify="left", caption=self.note or None)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For the page."""
        rows = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return "\n\n".join(part for part in (f"## {self.title}", self.note, table) if part) + "\n"

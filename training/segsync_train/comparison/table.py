"""A table and the ways it is written: Markdown, LaTeX and CSV; `page` writes it as HTML."""

from dataclasses import dataclass

from segsync_train.evaluation.summary import csv_of

Row = tuple[str, ...]

#: What LaTeX reads as something else, and signs that its fonts lack.
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "−": "$-$",
        "×": r"$\times$",
        "<": "$<$",
        ">": "$>$",
        "–": "--",
        "…": r"\ldots{}",
        # After a line's end LaTeX would take a bracket for its argument.
        "[": "{[}",
        "]": "{]}",
    }
)


class Bold(str):
    """A cell that stands out: the best of its column."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """Rows below a heading of their own; an empty title has none."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """Cells as people read them.

    Attributes:
        name: Of its file and its LaTeX label.
        title: Above it.
        head: Names of the columns.
        sections: The rows, in groups.
        note: What must be known to read it.
        words: The columns of text, set to the left; numbers are set to the right.
    """

    name: str
    title: str
    head: Row
    sections: tuple[Section, ...]
    note: str = ""
    words: tuple[int, ...] = (0,)

    def markdown(self) -> str:
        """GitHub's dialect; a section's title is a row of its own."""
        lines = [f"### {self.title}", "", _pipes(self.head), _pipes(self._columns("---", "---:"))]
        for section in self.sections:
            if section.title:
                lines.append(_pipes((f"*{_marked(section.title)}*", *("",) * (len(self.head) - 1))))
            lines += [_pipes(tuple(map(_emphasised, row))) for row in section.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """For `booktabs`."""
        width = len(self.head)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(self.title)}. {_tex(self.note)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{''.join(self._columns('l', 'r'))}}}",
            r"\toprule",
            _ampersands(self.head),
        ]
        for section in self.sections:
            lines.append(r"\midrule")
            if section.title:
                lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(section.title)}}}}} \\")
            lines += [_ampersands(row) for row in section.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"

    def csv(self) -> str:
        """A line for each row, its section first."""
        return csv_of(("section", *self.head), [(part.title, *row) for part in self.sections for row in part.rows])

    def _columns(self, words: str, numbers: str) -> Row:
        return tuple(words if place in self.words else numbers for place in range(len(self.head)))


def _pipes(row: Row) -> str:
    return f"| {' | '.join(row)} |"


def _emphasised(cell: str) -> str:
    return f"**{_marked(cell)}**" if isinstance(cell, Bold) else _marked(cell)


def _marked(text: str) -> str:
    for sign in "|*_<":
        text = text.replace(sign, f"\\{sign}")
    return text


def _tex(text: str) -> str:
    return text.translate(LATEX)


def _ampersands(row: Row) -> str:
    cells = (rf"\textbf{{{_tex(cell)}}}" if isinstance(cell, Bold) else _tex(cell) for cell in row)
    return rf"{' & '.join(cells)} \\"

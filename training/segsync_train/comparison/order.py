"""Whether the paper's order of systems is found again, pair by pair: what `compare --paper` says of each setting.

The paper's order of two systems is that of their mean Dice over its tables (of one data set each) that have both. Ours
go by the paper's names, with a backbone behind a comma where they have one (`VoCo, SwinUNETR`): two of those are a pair
where it is the same.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from segsync_train.comparison.cells import interval, p_value, signed
from segsync_train.comparison.published import OVERVIEW, Published
from segsync_train.comparison.scores import DICE, Setting
from segsync_train.comparison.statistics import LEVEL, Difference, difference, holm
from segsync_train.comparison.table import Row, Section, Table

HOLDS, REVERSED, UNDECIDED = "The same order here", "The opposite order here", "Not told apart here"


@dataclass(frozen=True)
class Pair:
    """Two systems, the one that the paper has ahead first.

    Attributes:
        ahead: The system that the paper has ahead.
        behind: The other.
        published: By how much Dice it is ahead there.
        found: And here.
        p: Of the latter, corrected by Holm over a setting's pairs.
    """

    ahead: str
    behind: str
    published: float
    found: Difference
    p: float

    @property
    def verdict(self) -> str:
        """One of the three above."""
        if not self.p < LEVEL:
            return UNDECIDED
        return HOLDS if self.found.effect > 0 else REVERSED


def pairs(setting: Setting, paper: Sequence[Published]) -> list[Pair]:
    """Every pair of a setting's systems that the paper has an order of."""
    dice = {name: setting.seeds_of(DICE, name) for name in setting.systems}
    ordered = list(_ordered(setting.systems, paper))
    found = [difference(dice[ahead], dice[behind]) for ahead, behind, _ in ordered]
    corrected = holm([one.p for one in found])
    return [Pair(*names, one, p) for names, one, p in zip(ordered, found, corrected, strict=True)]


def order_table(setting: Setting, found: Sequence[Pair]) -> Table:
    """A section a verdict, with the paper's difference beside ours."""
    sections = []
    for verdict in (HOLDS, REVERSED, UNDECIDED):
        rows: list[Row] = [
            (
                pair.ahead,
                pair.behind,
                signed(pair.published, 3),
                interval(pair.found.mean, pair.found.low, pair.found.high, DICE),
                p_value(pair.p),
            )
            for pair in found
            if pair.verdict == verdict
        ]
        if rows:
            sections.append(Section(f"{verdict}: {len(rows)} of {len(found)} pairs", tuple(rows)))
    return Table(
        f"data-{setting.slug}-order",
        f"{setting.title}: the paper's order",
        ("Ahead in the paper", "of", "Dice there", "Dice here [95 % CI]", "p, Holm"),
        tuple(sections),
        "Differences of mean Dice; the paper's are means over its data sets: other cases, and often other networks. "
        f"Told apart: Wilcoxon signed-rank on the cases here, corrected by Holm over all pairs, p < {LEVEL:g}.",
        words=(0, 1),
    )


def _ordered(systems: Sequence[str], paper: Sequence[Published]) -> Iterator[tuple[str, str, float]]:
    """Pairs as the paper orders them, with its difference; none where its means are equal or it lacks one."""
    tables: dict[int, dict[str, float]] = defaultdict(dict)
    for row in paper:
        if row.table != OVERVIEW:
            tables[row.table][row.system] = row.values[DICE.key][0]
    for one, other in combinations(systems, 2):
        (method, _, backbone), (second, _, its) = one.partition(", "), other.partition(", ")
        if backbone and its and backbone != its:
            continue
        both = [given[method] - given[second] for given in tables.values() if method in given and second in given]
        mean = float(np.mean(both)) if both else 0.0
        if mean:
            yield (one, other, mean) if mean > 0 else (other, one, -mean)

"""The numbers of the paper's Tables 1 to 9 (Mazher et al., MIDL 2025), to stand beside our own and be called published.

They are means, with standard deviations where the paper gives them; single cases were not published, so that nothing
can be tested against them. Data sets have the names of `segsync-train datasets`.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from segsync_train.comparison.scores import METRICS

#: The paper's names of its data sets.
TITLES = {
    "hvsmr2": "HVSMR-2.0",
    "mmwhs-ct": "MMWHS CT",
    "mmwhs-mr": "MMWHS MRI",
    "whspp-ct": "WHS++ CT",
    "whspp-mr": "WHS++ MRI",
    "aims-tbi": "TBI",
    "isles24": "ISLES2024",
}
#: The table of all data sets; the others are of one each.
OVERVIEW = 1


@dataclass(frozen=True)
class Published:
    """One row of one table.

    Attributes:
        table: Its number.
        data: The data set.
        system: As the paper calls it.
        values: Mean and standard deviation by metric, NaN where it gives none.
        p: Of the Dice.
    """

    table: int
    data: str
    system: str
    values: Mapping[str, tuple[float, float]]
    p: str


def published() -> tuple[Published, ...]:
    """Every row, in the paper's order."""
    text = files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            int(row["table"]),
            row["data"],
            row["system"],
            {metric.key: (_number(row[metric.key]), _number(row[f"{metric.key}_sd"])) for metric in METRICS},
            row["p_dice"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def of_data(rows: tuple[Published, ...], data: str) -> list[Published]:
    """A data set's own rows, each system once: of the latest table, which has more digits."""
    return list({row.system: row for row in rows if row.data == data and row.table != OVERVIEW}.values())


def _number(text: str) -> float:
    return float(text) if text else math.nan

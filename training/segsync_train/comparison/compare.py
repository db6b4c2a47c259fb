"""`segsync-train compare`: the paper's tables and figures from folders of scores.

tables/NAME.{csv,md,tex}   overview, budget, and one a setting      figures/NAME.png      index.html holds them all
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from segsync.atomic import make_folder, whole_file, why_not, write_texts
from segsync.errors import OutputError
from segsync_train.comparison.figures import (
    Look,
    cross_figure,
    data_figure,
    labels_figure,
    looks,
    ranking_figure,
    significance_figure,
)
from segsync_train.comparison.frames import Frames, frames_of, within
from segsync_train.comparison.grouping import group_runs, reference_of
from segsync_train.comparison.leaderboard import leaderboard_table
from segsync_train.comparison.montage import montage_figure
from segsync_train.comparison.order import order_table, pairs
from segsync_train.comparison.page import Chapter, Picture, page
from segsync_train.comparison.published import Published, of_data, published
from segsync_train.comparison.scores import Setting, read_runs
from segsync_train.comparison.tables import (
    budget_table,
    data_csv,
    data_table,
    differences_table,
    overview_table,
)

log = logging.getLogger(__name__)

DPI = 150


def compare(
    runs: Sequence[str], output: Path, *, reference: str | None = None, paper: bool = False
) -> tuple[Chapter, ...]:
    """Compare runs, and write tables, figures and the page.

    Args:
        runs: `FOLDER`, or `NAME=FOLDER` to name its system.
        output: Folder of all that is written.
        reference: The system that the others are tested against; None takes 3D-SegSync, or else the first one given.
        paper: Whether the paper's numbers and its order stand beside ours.

    Returns:
        What the page, `index.html`, shows.

    Raises:
        InputError: Runs cannot be compared.
        OutputError: The folder cannot be written.
    """
    read = read_runs(runs)
    names = list(dict.fromkeys(run.name for run in read))
    chosen = reference_of(names, reference)
    settings = group_runs(read, chosen)
    given = published() if paper else ()
    make_folder(output / "figures")
    frames = frames_of(settings, chosen)
    look = looks(sorted(names, key=lambda name: name != chosen))
    chapters = (
        *_together(settings, frames, look, given, output),
        *_apart(settings, frames, chosen, look, given, output),
    )
    seeds = f"{len(read)} runs of {len(names)} systems; each other system is tested against {chosen}."
    write_texts({"index.html": page(f"Comparison of {len(names)} systems", seeds, chapters)}, output)
    return chapters


def _together(
    settings: Sequence[Setting], frames: Frames, look: Mapping[str, Look], paper: Sequence[Published], output: Path
) -> Iterator[Chapter]:
    """What is said of all settings at once."""
    overview, budget = overview_table(settings, frames.summary, paper), budget_table(settings, frames.summary)
    for table in (overview, budget):
        written = {"csv": table.csv(), "md": table.markdown(), "tex": table.latex()}
        write_texts({f"{table.name}.{ending}": text for ending, text in written.items()}, output / "tables")
    boxes = "Dice and HD95 by data set. Box: quartiles; line: median; dots: cases."
    if any(of_data(tuple(paper), setting.data) for setting in settings if not setting.crossed):
        boxes += " Diamonds: means that the paper gives, of other cases."
    pictures = [_saved("by-data", data_figure(settings, frames.scores, look, paper), boxes, output)]
    if any(setting.crossed for setting in settings):
        caption = "Across data sets: mean Dice ± SD by what the systems were trained on."
        pictures.append(_saved("across", cross_figure(settings, frames.scores, look), caption, output))
    yield Chapter("All data sets", tuple(pictures), (overview, budget))
    contested = [setting for setting in settings if len(setting.systems) > 1]
    if contested:
        caption = (
            "Yellow: the row's system is better than the column's (one-sided Wilcoxon signed-rank test, p corrected by "
            "Holm over all pairs of a panel)."
        )
        tests = _saved("significance", significance_figure(contested, frames.scores), caption, output)
        caption = (
            "How stable the ranking is: the cases are drawn anew 1000 times and the means ranked. A blob's area is how "
            "often a system had that rank; cross: its median; line: 95 % of the draws; τ: mean agreement with the "
            "ranking on all cases."
        )
        ranks = _saved("ranking", ranking_figure(contested, frames.ranks, look), caption, output)
        yield Chapter("Which system is better, and how surely", (tests, ranks))


def _apart(
    settings: Sequence[Setting],
    frames: Frames,
    reference: str,
    look: Mapping[str, Look],
    paper: Sequence[Published],
    output: Path,
) -> Iterator[Chapter]:
    """A chapter a setting."""
    for setting in settings:
        log.info("%s: %d systems on %d cases", setting.title, len(setting.systems), len(setting.cases))
        summary = within(frames.summary, setting)
        tables = [data_table(setting, summary, reference, paper)]
        if reference in setting.systems:
            tables.append(differences_table(setting, summary, reference))
        ranked = leaderboard_table(setting)
        if ranked is not None:
            tables.append(ranked)
        ordered = pairs(setting, paper)
        if ordered:
            tables.append(order_table(setting, ordered))
        texts = {
            f"data-{setting.slug}.csv": data_csv(summary),
            f"data-{setting.slug}.md": "\n".join(table.markdown() for table in tables),
            f"data-{setting.slug}.tex": "\n".join(table.latex() for table in tables),
        }
        write_texts(texts, output / "tables")
        caption = "Dice of every label and case."
        pictures = [_saved(f"labels-{setting.slug}", labels_figure(setting, frames.scores, look), caption, output)]
        montage = montage_figure(setting)
        if montage is not None:
            caption = (
                "Cases at the lower quartile, the median and the upper quartile of the systems' mean Dice, in the "
                "axial slice with most of the truth; the patient's right is on the left."
            )
            pictures.append(_saved(f"cases-{setting.slug}", montage, caption, output))
        yield Chapter(setting.title, tuple(pictures), tuple(tables))


def _saved(name: str, figure: Figure, caption: str, output: Path) -> Picture:
    """The figure as a file below `figures`; raises OutputError."""
    path = output / "figures" / f"{name}.png"
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    try:
        with whole_file(path) as part:
            part.write_bytes(file.getvalue())
    except OSError as error:
        raise OutputError(f"{path}: expected to write the figure, found {why_not(output, error)}") from error
    return Picture(name, file.getvalue(), caption)

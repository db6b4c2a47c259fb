"""The page of the hearts: what pretraining brings, how many runs there are, and every system by its labels."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from heart_study import BARE, DATA, EXPLORE, PRETRAINING, SCRATCH, SYSTEMS, TEST, TRIED, TUNING, WHOLE, Cell, System
from ledger import Key, Ledger, Made
from matplotlib.figure import Figure

from segsync.atomic import whole_file
from segsync_train.comparison.compare import compare
from segsync_train.comparison.grouping import group_runs
from segsync_train.comparison.scores import DICE, Setting, read_run
from segsync_train.comparison.statistics import Difference, Values, difference
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.ssl.config import PretrainConfig


def write_page(ledger: Ledger, wanted: dict[Cell, Key], options: argparse.Namespace) -> None:
    """The page of what is there: what is missing is said; what was made with other settings has a table of its own."""
    there = {cell: key for cell, key in wanted.items() if key in ledger.runs}
    counts = list(dict.fromkeys(sorted(cell.labelled for cell in there)))
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    parts, found = [introduction(options)], {}
    with TemporaryDirectory() as folder:
        chapters = []
        for count in counts:
            runs = [
                ledger.restore(key, DATA, Path(folder) / f"{cell.system.key}-{count}-{cell.seed}")
                for cell, key in there.items()
                if cell.labelled == count
            ]
            if len({cell.system for cell in there if cell.labelled == count}) > 1:
                chapters.append(compared(count, runs, Path(folder) / f"comparison-{count}", images))
                (found[count],) = group_runs([read_run(run) for run in runs], SYSTEMS[0].name)
    parts += [*in_short(found), *seeds_table(ledger, wanted, there)]
    if found:
        labels_figure(found).savefig(images / "heart.png", dpi=150)
        parts.append("![Dice by labelled hearts](../images/heart.png)\n")
    parts += [*other_budgets(ledger, wanted), *tried_table(options), *chapters]
    page = options.docs / "results" / "heart.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(page) as part:
        part.write_text("\n".join(parts) + "\n", encoding="utf-8")
    sys.stdout.write(f"{page}\n")


def introduction(options: argparse.Namespace) -> str:
    """What was compared, on what, and with which budget."""
    tuning = load_settings(RunConfig, TUNING, options.set)
    pretraining = load_settings(PretrainConfig, PRETRAINING, options.pretrain_set)
    size = "×".join(str(side) for side in tuning.patch_zyx)
    z, y, _ = tuning.spacing_zyx
    return (
        "# Hearts: pretraining where labels are few\n\n"
        f"{options.command}, on ACDC (99 hearts at end-diastole, CC BY-NC-SA 4.0: figures alone, no image). The scores "
        "of every finished run are kept in [heart/](heart), with the commit that made them; the command goes on where "
        f"they end. {TEST} hearts are tested, the same for all; the others pretrain without labels, and the first of "
        "them in a fixed order have their labels used: which hearts are labelled does not change with the seed.\n\n"
        f"The budget is small: patches of {size} voxels of {z:g} × {y:g} × {y:g} mm, fine-tuning of {tuning.steps} "
        f"steps of {tuning.batch}, last weights; pretraining of {pretraining.steps} steps of {pretraining.batch}, the "
        "same for all pretexts, lowest held-out loss. Whatever the table says, it says of this budget. Strides halve "
        "in plane alone until a voxel is as wide as a slice is thick. Each seed is one of pretraining and of "
        "fine-tuning. Intervals hold cases and, where there are several, seeds. `3D-nnUNet` is MONAI's network in this "
        "loop, not nnU-Net's package. SwinMM's other sides see a heart ten slices thick, most of them padding.\n"
    )


def compared(count: int, runs: Sequence[str], folder: Path, images: Path) -> str:
    """Tables and pictures of all systems with so many labels."""
    # No montage: no image of ACDC leaves its folder.
    chapters = compare(runs, folder, paper=True)
    parts = [f"## {count} labelled hearts\n"]
    for table in sorted((folder / "tables").glob("data-*.md")):
        parts.append(table.read_text(encoding="utf-8"))
    for picture in (picture for chapter in chapters for picture in chapter.pictures):
        name = f"heart-{count}-{picture.name}.png"
        (images / name).write_bytes(picture.png)
        parts.append(f"![{picture.name.replace('-', ' ')}](../images/{name})\n\n*{picture.caption}*\n")
    return "\n".join(parts)


def in_short(found: dict[int, Setting]) -> Iterator[str]:
    """What pretraining brings over the same network from scratch, and what the ViL blocks bring, with intervals."""
    yield "## In short\n"
    yield "| labelled hearts | system | against | mean Dice | difference | 95 % interval | seeds |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    pairs = [(one.name, SCRATCH) for one in SYSTEMS if one.pretext] + [(WHOLE, BARE)]
    better = []
    for count, setting in found.items():
        for name, base in pairs:
            if name in setting.systems and base in setting.systems:
                values = setting.seeds_of(DICE, name)
                gain = difference(values, setting.seeds_of(DICE, base))
                yield f"| {count} | {name} | {base} | {values.mean():.3f} | {gain_text(gain)} |"
                better += [f"{name} with {count}"] if gain.low > 0 and min(gain.seeds) > 1 else []
    yield (
        "\nBetter by an interval over seeds and hearts that excludes zero: "
        f"{', '.join(better) or 'none of those with several seeds'}.\n"
    )


def gain_text(gain: Difference) -> str:
    """A difference as cells of a row."""
    return f"{gain.mean:+.3f} | {gain.low:+.3f} to {gain.high:+.3f} | {' and '.join(map(str, gain.seeds))}"


def seeds_table(ledger: Ledger, wanted: dict[Cell, Key], there: dict[Cell, Key]) -> Iterator[str]:
    """How many seeds each system has by labels, of those that are wanted."""
    counts = list(dict.fromkeys(sorted(cell.labelled for cell in wanted)))
    yield "## What has been run\n"
    yield f"| system | {' | '.join(f'{count} labelled' for count in counts)} | parameters 10⁶ | seconds a run |"
    yield "| --- " * (len(counts) + 3) + "|"
    for one in dict.fromkeys(cell.system for cell in wanted):
        row = [f"{seeds(there, one, count)} of {seeds(wanted, one, count)}" for count in counts]
        runs = [ledger.runs[key] for cell, key in there.items() if cell.system == one]
        cost = (
            (f"{runs[0].parameters / 1e6:.2f}", f"{np.mean([run.seconds for run in runs]):.0f}") if runs else ("", "")
        )
        yield f"| {one.name} | {' | '.join(cell if cell != '0 of 0' else '' for cell in (*row, *cost))} |"
    hardware = " and ".join(sorted({ledger.runs[key].hardware for key in there.values()}))
    yield f"\nRuns finished, of those wanted. Seconds of one processor, training and scoring ({hardware}).\n"


def other_budgets(ledger: Ledger, wanted: dict[Cell, Key]) -> Iterator[str]:
    """Dice of the runs that were made with other settings than the page's."""
    others: dict[tuple[int, int, str], list[float]] = {}
    for key, run in sorted(ledger.runs.items(), key=lambda item: item[0].seed):
        if key not in wanted.values():
            dice = float(np.mean(list(ledger.dice(key).values())))
            others.setdefault((run.steps, key.labelled, key.system), []).append(dice)
    if not others:
        return
    yield "## Other budgets\n"
    yield "| steps | labelled hearts | system | mean Dice, by seed |"
    yield "| --- | --- | --- | --- |"
    for (steps, labelled, system), values in sorted(others.items()):
        yield f"| {steps} | {labelled} | {system} | {', '.join(f'{value:.3f}' for value in values)} |"
    yield (
        "\nThe same test hearts; none of these runs is part of any other table. The page's budget was chosen after "
        "some of them had been seen.\n"
    )


def seeds(of: Iterable[Cell], one: System, count: int) -> int:
    """How many runs a system has with so many labels."""
    return sum(cell.system == one and cell.labelled == count for cell in of)


def labels_figure(found: dict[int, Setting]) -> Figure:
    """Mean Dice by labelled hearts; each seed is a dot."""
    drawn = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = drawn.add_subplot()
    colours = {"3D-SegSync": "#0072B2", "3D-SegSync-Bottom": "#E69F00", SCRATCH: "#555555"}
    for name, colour in colours.items():
        means = {count: one.seeds_of(DICE, name).mean(1) for count, one in found.items() if name in one.systems}
        if not means:
            continue
        axes.plot(list(means), [values.mean() for values in means.values()], color=colour, label=name)
        for count, values in means.items():
            axes.plot([count] * len(values), values, "o", color=colour, markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(list(found), [str(count) for count in found])
    axes.minorticks_off()
    axes.set_xlabel("labelled hearts")
    axes.set_ylabel("mean Dice of the test hearts, a dot a seed")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return drawn


def tried_table(options: argparse.Namespace) -> Iterator[str]:
    """Every setting that was tried, with its figure."""
    ledger = Ledger(options.docs / "results" / "heart" / "tried")
    if not ledger.runs:
        return
    yield "## What was tried\n"
    yield (
        f"On {EXPLORE} hearts cut out of those that train, never on a test heart; after a semicolon what was laid over "
        "the settings above. The difference is to training from scratch with as many labels, the same seed and the "
        "same settings of fine-tuning, with its interval over hearts.\n"
    )
    yield "| tried | labelled | seed | pretraining steps | steps | mean Dice | difference |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for run in sorted(ledger.runs.values(), key=lambda run: (run.key.labelled, run.key.seed, run.steps)):
        dice, shown = ledger.dice(run.key), ""
        if (base := base_of(run, ledger)) is not None:
            gain = difference(by_heart(dice), by_heart(ledger.dice(base)))
            shown = f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        cells = (run.key.system, run.key.labelled, run.key.seed, run.pretraining_steps or "", run.steps)
        yield f"| {' | '.join(map(str, cells))} | {np.mean(list(dice.values())):.3f} | {shown} |"
    yield ""


def base_of(run: Made, ledger: Ledger) -> Key | None:
    """The training from scratch that a run with pretraining is held against, where it has been made."""
    _, *given = run.key.system.split("; ")
    name = "; ".join([TRIED[0].name, *(value for value in given if not value.startswith("pretraining "))])
    alike = (key for key in ledger.runs if key.system == name and key != run.key)
    return next((key for key in alike if (key.labelled, key.seed) == (run.key.labelled, run.key.seed)), None)


def by_heart(dice: dict[tuple[str, str], float]) -> Values:
    """Mean Dice over the structures of each heart."""
    names = sorted({case for case, _ in dice})
    return np.array([np.mean([value for (case, _), value in dice.items() if case == name]) for name in names])

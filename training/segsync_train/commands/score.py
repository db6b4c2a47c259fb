"""Commands that score and compare: `evaluate`, `compare`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from segsync_train.commands.options import (
    CheckpointOption,
    DeviceOption,
    RulesOption,
    ThreadsOption,
    Verbose,
    on_stdout,
    set_up_logging,
)

PartOfSplit = Literal["validation", "training", "all"]


def evaluate(
    source: Annotated[
        Path, typer.Argument(help="A run or a folder of weights; with --references, a folder of predictions.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the scores.")],
    references: Annotated[
        Path | None, typer.Option("--references", help="Folder of label maps, named as the predictions are.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="VALUE=NAME", help="Labels to score, regions as 1,2,3=NAME; else all in --references."
        ),
    ] = None,
    ignore: Annotated[
        int | None, typer.Option("--ignore", min=1, help="The value in --references of what nobody labelled.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of labelled cases instead of the run's.")] = None,
    layout: Annotated[str, typer.Option("--layout", help="Layout of --data, as in `datasets`.")] = "nnunet",
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="MODEL=DATA", help="A channel that --data names otherwise: ct=mr."),
    ] = None,
    part: Annotated[PartOfSplit, typer.Option("--part", help="Which cases of the run's own split.")] = "validation",
    rules: RulesOption = None,
    probabilities: Annotated[
        Path | None,
        typer.Option("--probabilities", help="Folder of probability maps beside predictions, which isles26 scores."),
    ] = None,
    checkpoint: CheckpointOption = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over mirrored copies.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Keep the masks, in OUTPUT/masks.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    verbose: Verbose = False,
) -> None:
    """Score a network or a folder of predictions: Dice, HD, HD95, ASSD, volumes and lesions of every case and label."""
    set_up_logging(verbose=verbose)
    from segsync_train.evaluation.evaluate import evaluate as run
    from segsync_train.evaluation.evaluate import parse_channels, parse_labels
    from segsync_train.evaluation.summary import table_of

    groups, chosen = run(
        source, output, references=references, probabilities=probabilities, labels=parse_labels(label or [], ignore),
        data=data, layout=layout, channels=parse_channels(channel or []), part=part, rules=rules,
        checkpoint=checkpoint, device=device, mirror=mirror, masks=masks,
    )  # fmt: skip
    on_stdout().print(table_of(groups, chosen))


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders that `evaluate` wrote; NAME=FOLDER renames the system."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the tables, figures and index.html.")],
    reference: Annotated[
        str | None, typer.Option("--reference", help="System to test the others against; else 3D-SegSync.")
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Set the paper's numbers and its order beside them.")] = False,
    verbose: Verbose = False,
) -> None:
    """Set evaluated systems side by side as the paper does: tables, tests, rankings, figures and one page.

    A system is called by its network and what it inherits (3D-SegSync, xLSTM-UNet, 3D-nnUNet), a folder of predictions
    by its name, or as NAME= says. Runs of one name on one data set are its seeds or folds: their means are compared.
    """
    set_up_logging(verbose=verbose)
    from segsync_train.comparison.compare import compare as run

    run(runs, output, reference=reference, paper=paper)
    sys.stdout.write(f"{output / 'index.html'}\n")

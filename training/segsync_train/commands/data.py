"""Commands about what a training is given: `synthesize`, `phantoms`, `recipes`, `datasets`."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from segsync.errors import InputError
from segsync_train.commands.options import Verbose, on_stdout, set_up_logging

log = logging.getLogger(__name__)


def synthesize(
    task: Annotated[
        str, typer.Option("--task", help="What is drawn: isles22, brain-ct or another task with a generator.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the cases, in nnU-Net's format.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of cases.")] = 1,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of the first case; the others count up from it.")
    ] = 0,
    sources: Annotated[
        Path, typer.Option("--sources", help="Folder of brain-label-maps, lesion-masks-soop and lesion-masks-lesymap.")
    ] = Path("data"),
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder to keep the prepared sources in: the next call starts in seconds."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Draw synthetic cases with their labels; the same seed gives the same bytes."""
    set_up_logging(verbose=verbose)
    from segsync_train.synthesis import SynthesisSources
    from segsync_train.synthesis.synthesize import synthesize as run

    run(task, n, output, seed, SynthesisSources.below(sources), cache=cache)
    sys.stdout.write(f"{output}\t{n} cases of {task}\tseeds {seed} to {seed + n - 1}\n")


def phantoms(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the sources, for `synthesize --sources`.")],
    heads: Annotated[int, typer.Option("--heads", min=1, help="Number of label maps.")] = 6,
    lesions: Annotated[int, typer.Option("--lesions", min=1, help="Number of lesion masks of each kind.")] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawing.")] = 0,
    verbose: Verbose = False,
) -> None:
    """Draw heads and lesions of ellipsoids, to try training where no label maps and lesion masks are at hand."""
    set_up_logging(verbose=verbose)
    from segsync_train.synthesis.phantom import write_phantoms

    write_phantoms(output, heads, lesions, seed)
    sys.stdout.write(f"{output}\t{heads} heads\t{2 * lesions} lesion masks\n")


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe to print, as a start for your own.")] = None,
) -> None:
    """List the settings that come with the software, or print one."""
    from segsync_train.config.recipes import recipe
    from segsync_train.config.recipes import recipes as known

    if name is not None:
        sys.stdout.write(recipe(name).read_text(encoding="utf-8"))
        return
    width = max(map(len, known()))
    for stem, about in known().items():
        sys.stdout.write(f"{stem:{width}}  {about}\n")


def datasets(
    name: Annotated[str | None, typer.Argument(help="A data set, or the format nnunet or bids.")] = None,
    folder: Annotated[Path | None, typer.Argument(help="A folder to check against it.")] = None,
    verbose: Verbose = False,
) -> None:
    """List the data sets that can be read, describe one, or check a folder and say what is wrong with it."""
    set_up_logging(verbose=verbose)
    from segsync_train.data.catalog import catalog, description
    from segsync_train.data.validate import validate_folder

    if name is None:
        on_stdout().print(catalog())
    elif folder is None:
        sys.stdout.write(description(name))
    else:
        report = validate_folder(name, folder)
        for problem in report.problems:
            log.error("%s", problem)
        if report.problems:
            raise InputError(
                f"{folder}: expected whole cases of {name}, found {len(report.problems)} problems in {report.cases} "
                "cases; see the lines above"
            )
        sys.stdout.write(f"{folder}\t{report.cases} cases\t{report.labelled} with labels\tnothing wrong\n")

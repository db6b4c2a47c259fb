"""The command line `segsync-train`. What a command needs is imported when it runs, so that `--help` is quick."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

import segsync
from segsync.console import guarded, show_logs
from segsync.errors import InputError, ResourceError, memory_errors
from segsync.processor import choose_threads

if TYPE_CHECKING:
    from segsync_train.trainer.loop import Outcome

log = logging.getLogger(__name__)

app = typer.Typer(
    name="segsync-train",
    help="Pretrain, fine-tune, evaluate, compare and export 3D-SegSync.\n\nExit codes: 0 done; 1 unexpected error; "
    "2 wrong usage; 3 settings or images; 4 weights or checkpoint; 5 output; 6 memory or device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings of the run, YAML, or a recipe's name.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set seed=1.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The run's folder.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in this folder.")]
MinutesOption = Annotated[
    float | None, typer.Option("--minutes", min=0.0, help="Stop with a checkpoint after this time; --resume continues.")
]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a fine-tuning run.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", help="A file other than the run's best checkpoint.")
]
RulesOption = Annotated[
    str | None, typer.Option("--rules", help="isles22, isles24, isles26, atlas or aims-tbi; else the task's.")
]
PartOfSplit = Literal["validation", "training", "all"]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, callback=choose_threads, help="Threads on a CPU; else as many as are free."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every step, and tracebacks.")]


def main() -> None:
    """Run the command line; errors are one line on stderr and a documented exit code."""
    set_up_logging(verbose=False)
    # torch's threads sleep at a barrier, rather than spin there while another process has the last one's processor. It
    # is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    guarded(_with_libraries)


def _with_libraries() -> None:
    """Say in one line what a machine lacks: memory, or a library, with the extra that brings it."""
    try:
        with memory_errors():
            app()
    except MemoryError as error:
        raise ResourceError(
            f"expected more memory, found too little ({str(error)[:200]}); use a larger machine"
        ) from error
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "segsync", "segsync_train"):
            raise
        raise ResourceError(
            f"{library}: expected the libraries of training, found this one missing; "
            "pip install 'segsync-isles[cpu,train]'"
        ) from error


def set_up_logging(*, verbose: bool) -> None:
    """-v speaks of this project alone, not of the libraries below it."""
    show_logs(logging.INFO)
    for name in ("segsync", "segsync_train"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


def stop_after(minutes: float | None) -> Callable[[], bool]:
    """Whether the time is up, or the system has asked the program to end (SIGTERM, as clusters send it)."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda: asked or (end is not None and time.monotonic() >= end)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"segsync-train {segsync.__version__}\n")
        raise typer.Exit


@app.command()
def pretrain(
    output: OutputOption,
    config: ConfigOption = None,
    set_: SetOption = None,
    resume: ResumeOption = False,
    minutes: MinutesOption = None,
    threads: ThreadsOption = None,
    verbose: Verbose = False,
) -> None:
    """Train an encoder on volumes without labels, for `finetune` to start from."""
    set_up_logging(verbose=verbose)
    from segsync_train.runs.folder import settings_of
    from segsync_train.ssl.config import PretrainConfig

    settings = settings_of(PretrainConfig, output, config, set_ or [], resume=resume)

    from segsync_train.trainer.pretrain import pretrain as run

    outcome = run(settings, output, resume=resume, should_stop=stop_after(minutes))
    say_outcome(outcome, settings.steps, "lowest held-out loss")


@app.command()
def plan(
    folder: Annotated[Path, typer.Argument(help="Folder of labelled cases.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The settings' file; the fingerprint goes beside it.")],
    layout: Annotated[str, typer.Option("--layout", help="Layout of FOLDER, as in `datasets`.")] = "nnunet",
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="Channels to read, the labels' own first; else all.")
    ] = None,
    group: Annotated[
        str, typer.Option("--group", help="What no split divides: subject, site, or a column of participants.tsv.")
    ] = "subject",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")] = 5,
    memory: Annotated[
        str | None, typer.Option("--memory", help="What training may take, as in 11GB; else the GPU's, or 8GB.")
    ] = None,
    network: Annotated[str | None, typer.Option("--network", help="A preset; else default, or tiny on a CPU.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Name of the task of the exported weights.")] = None,
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Cases that are read at once.")] = 2,
    verbose: Verbose = False,
) -> None:
    """Plan a training: measure the cases, write settings that train unchanged, and a page to check."""
    set_up_logging(verbose=verbose)
    from segsync_train.planning.plan import plan as run

    made = run(
        folder, output, layout=layout, channels=channel or (), group=group, folds=folds, memory=memory, device=device,
        network=network, task=task, threads=threads,
    )  # fmt: skip
    size = " × ".join(map(str, made.config.patch_zyx))
    sys.stdout.write(f"{output}\tpatch {size}\tbatch {made.config.batch}\t{made.config.steps} steps\n")


@app.command()
def finetune(
    output: OutputOption,
    config: ConfigOption = None,
    set_: SetOption = None,
    resume: ResumeOption = False,
    minutes: MinutesOption = None,
    threads: ThreadsOption = None,
    verbose: Verbose = False,
) -> None:
    """Train a network on labelled cases, from scratch or from a pretrained encoder."""
    set_up_logging(verbose=verbose)
    from segsync_train.config.run import RunConfig
    from segsync_train.runs.folder import settings_of

    settings = settings_of(RunConfig, output, config, set_ or [], resume=resume)

    from segsync_train.trainer.finetune import finetune as run

    outcome = run(settings, output, resume=resume, should_stop=stop_after(minutes))
    say_outcome(outcome, settings.steps, "best score")


@app.command(name="import")
def import_(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="Weights that others have trained.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the checkpoint and its settings.")],
    name: Annotated[
        str | None, typer.Option("--name", help="What comparisons call them; else the file's name.")
    ] = None,
    patch: Annotated[
        str | None, typer.Option("--patch", metavar="Z,Y,X", help="Their patch, where the file does not say it.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Bring weights of nnU-Net v2, nnssl, SwinUNETR, VoCo, SwinMM, Hi-End-MAE or the xLSTM-UNet into a checkpoint.

    Nothing that the file holds is run: it is unpickled as tensors alone. `base: OUTPUT/settings.yaml` starts a
    fine-tuning from it; OUTPUT/tensors.csv says what became of every tensor.
    """
    set_up_logging(verbose=verbose)
    from segsync_train.pretrained.convert import convert, parse_patch

    imported = convert(weights, output, name=name, patch_zyx=parse_patch(patch))
    on_stdout().print(imported.table())


@app.command()
def crossval(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of all folds; machines may share it.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    folds: Annotated[int | None, typer.Option("--folds", min=2, help="Else data.folds of the settings, or 5.")] = None,
    fold: Annotated[int | None, typer.Option("--fold", min=0, help="Do this one alone (from 0); else all.")] = None,
    rules: RulesOption = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Predict with mirrored copies.")] = False,
    minutes: MinutesOption = None,
    verbose: Verbose = False,
) -> None:
    """Train a network for each fold, predict the cases that it never saw, and pool all in one table.

    Called again it goes on where it stood. The last fold to be done pools. `tune` on the folder then chooses one
    operating point on all out-of-fold predictions.
    """
    set_up_logging(verbose=verbose)
    from segsync_train.evaluation.crossval import crossval_settings

    settings = crossval_settings(output, config, set_ or [], folds)

    from segsync_train.evaluation.crossval import crossval as run
    from segsync_train.evaluation.pooling import pooled_table

    outcome = run(settings, output, fold=fold, rules=rules, mirror=mirror, should_stop=stop_after(minutes))
    if outcome.table:
        on_stdout().print(pooled_table(outcome.table))


@app.command()
def tune(
    run: RunArgument,
    checkpoint: CheckpointOption = None,
    cases: Annotated[int | None, typer.Option("--cases", min=1, help="Draw this many synthetic cases instead.")] = None,
    rules: RulesOption = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over mirrored copies.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    verbose: Verbose = False,
) -> None:
    """Choose the threshold, the smallest component and the least confidence on validation cases.

    RUN may be a cross-validation: then on the out-of-fold predictions of all cases.

    Every candidate is ranked in each case and metric of the rules, as on the challenge's leaderboard.
    """
    set_up_logging(verbose=verbose)
    from segsync_train.evaluation.operating_point import choose_operating_point

    point = choose_operating_point(run, device, checkpoint, cases, rules=rules, mirror=mirror)
    sys.stdout.write(
        f"{run}\tthreshold {point.threshold:g}\tsmallest component {point.min_component_ml:g} ml\t"
        f"least confidence {point.min_component_confidence:g}\t{point.rules}\t"
        f"Dice {point.dice:.4f}\tlesion F1 {point.lesion_f1:.4f}\n"
    )


@app.command()
def retune(
    weights: Annotated[Path, typer.Argument(help="A folder of exported weights that were trained on drawn cases.")],
    sources: Annotated[Path | None, typer.Option("--sources", help="Folder of the generator's sources.")] = None,
    cases: Annotated[int | None, typer.Option("--cases", min=1, help="Draw this many cases.")] = None,
    decision: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--decision", help="Take this threshold, smallest component (ml) and least confidence."),
    ] = None,
    rules: RulesOption = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over mirrored copies.")] = False,
    device: DeviceOption = "auto",
    verbose: Verbose = False,
) -> None:
    """Choose the operating point of exported weights anew, or score one that was chosen on patients and take it."""
    set_up_logging(verbose=verbose)
    from segsync.bundle import DecisionSpec
    from segsync_train.export.retune import retune as run

    wanted = None
    if decision is not None:
        threshold, smallest, confidence = decision
        wanted = DecisionSpec(threshold=threshold, min_component_ml=smallest, min_component_confidence=confidence)
    point = run(weights, device, cases, sources=sources, rules=rules, mirror=mirror, decision=wanted)
    sys.stdout.write(
        f"{weights}\tthreshold {point.threshold:g}\tsmallest component {point.min_component_ml:g} ml\t"
        f"least confidence {point.min_component_confidence:g}\t{point.rules}\t"
        f"Dice {point.dice:.4f}\tlesion F1 {point.lesion_f1:.4f}\n"
    )


@app.command()
def export(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A fine-tuning run; several become an ensemble.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of weights: RUN's task becomes a folder in it.")
    ],
    checkpoint: CheckpointOption = None,
    operating_point: Annotated[
        Path | None, typer.Option("--operating-point", help="Folder of another one that `tune` chose.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Another task that the same network serves; else the run's own.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="SPDX identifier of the weights' licence.")] = "Apache-2.0",
    verbose: Verbose = False,
) -> None:
    """Write the networks of runs as ONNX files, model.json and MODEL_CARD.md, each compared with torch first."""
    set_up_logging(verbose=verbose)
    from segsync_train.export.export import export as write

    written = write(runs, output, licence=licence, checkpoint=checkpoint, operating_point=operating_point, task=task)
    sys.stdout.write(f"{written}\n")


@app.command()
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
        typer.Option("--label", metavar="VALUE=NAME", help="Labels to score; else all in --references."),
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
        source, output, references=references, probabilities=probabilities, labels=parse_labels(label or []),
        data=data, layout=layout, channels=parse_channels(channel or []), part=part, rules=rules,
        checkpoint=checkpoint, device=device, mirror=mirror, masks=masks,
    )  # fmt: skip
    on_stdout().print(table_of(groups, chosen))


@app.command()
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


@app.command()
def synthesize(
    task: Annotated[str, typer.Option("--task", help="What is drawn: isles22, isles24, aims-tbi, isles26 or brain.")],
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


@app.command()
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


@app.command()
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


@app.command()
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


def say_outcome(outcome: "Outcome", steps: int, criterion: str) -> None:
    """One line on standard output: the run's folder, its last step, and what its best weights reached."""
    if not outcome.finished:
        log.info("stopped after step %d of %d; go on with --resume", outcome.step, steps)
    reached = "no weights are the best yet" if outcome.best is None else f"{criterion} {outcome.best:.4f}"
    sys.stdout.write(f"{outcome.folder}\tstep {outcome.step}\t{reached}\n")


def on_stdout() -> Console:
    """A console on standard output; wide where it is no terminal, so that lines of a table stay lines in a file."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


if __name__ == "__main__":
    main()

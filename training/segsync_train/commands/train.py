"""Commands that train: `plan`, `pretrain`, `finetune`, `crossval`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from segsync_train.commands.options import (
    ConfigOption,
    DeviceOption,
    MinutesOption,
    OutputOption,
    ResumeOption,
    RulesOption,
    SetOption,
    ThreadsOption,
    Verbose,
    on_stdout,
    say_outcome,
    set_up_logging,
    stop_after,
)


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


def crossval(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of all folds; machines may share it.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    folds: Annotated[int | None, typer.Option("--folds", min=2, help="Else data.folds of the settings, or 5.")] = None,
    fold: Annotated[int | None, typer.Option("--fold", min=0, help="Do this one alone (from 0); else all.")] = None,
    rules: RulesOption = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Predict with mirrored copies.")] = False,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.0, help="Stop with a checkpoint after this time, to go on from.")
    ] = None,
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

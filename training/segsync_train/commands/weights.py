"""Commands about weights, others' and exported ones: `import`, `tune`, `export`, `combine`, `retune`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from segsync_train.commands.options import (
    CheckpointOption,
    DeviceOption,
    RulesOption,
    RunArgument,
    ThreadsOption,
    Verbose,
    on_stdout,
    say_operating_point,
    set_up_logging,
)


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

    Regions, which overlap, get one each. Other labels share one, chosen on what any of them covers: a voxel is first
    decided to be foreground, then takes its likeliest label.
    """
    set_up_logging(verbose=verbose)
    from segsync_train.evaluation.operating_point import choose_operating_point

    point = choose_operating_point(run, device, checkpoint, cases, rules=rules, mirror=mirror)
    say_operating_point(run, point)


def combine(
    weights: Annotated[list[Path], typer.Argument(metavar="WEIGHTS...", help="Folders of exported weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of weights: the task becomes a folder in it.")],
    verbose: Verbose = False,
) -> None:
    """Put networks that were exported one by one together as an ensemble, with the operating point of the first."""
    set_up_logging(verbose=verbose)
    from segsync_train.export.combine import combine as run

    sys.stdout.write(f"{run(weights, output)}\n")


def retune(
    weights: Annotated[Path, typer.Argument(help="A folder of exported weights that were trained on drawn cases.")],
    sources: Annotated[Path | None, typer.Option("--sources", help="Folder of the generator's sources.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Keep what is prepared of the sources here, as data.cache does.")
    ] = None,
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
    point = run(weights, device, cases, sources=sources, cache=cache, rules=rules, mirror=mirror, decision=wanted)
    say_operating_point(weights, point)


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

"""The command line `segsync-train`: the commands of `segsync_train.commands`, in the order of `--help`."""

import os
import sys
from typing import Annotated

import typer

import segsync
from segsync.console import guarded
from segsync.errors import ResourceError, memory_errors
from segsync_train.commands import data, score, train, weights
from segsync_train.commands.options import set_up_logging

app = typer.Typer(
    name="segsync-train",
    help="Pretrain, fine-tune, evaluate, compare and export 3D-SegSync.\n\nExit codes: 0 done; 1 unexpected error; "
    "2 wrong usage; 3 settings or images; 4 weights or checkpoint; 5 output; 6 memory or device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (
    train.plan, train.pretrain, train.finetune, train.crossval, weights.tune, score.evaluate, score.compare,
    weights.export, weights.combine, weights.retune, weights.import_, data.datasets, data.recipes, data.synthesize,
    data.phantoms,
):  # fmt: skip
    app.command(name=command.__name__.rstrip("_"))(command)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"segsync-train {segsync.__version__}\n")
        raise typer.Exit


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


if __name__ == "__main__":
    main()

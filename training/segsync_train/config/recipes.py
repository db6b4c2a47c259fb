"""Settings that come with the software, each found by its name: `--config isles22`."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from segsync.errors import UsageError
from segsync.shipped import WEIGHTS, shipped

RECIPES = shipped("segsync_train", "recipes", "training/configs")


def recipe(name: str) -> Path:
    """The file of a recipe, named with or without `.yaml`; raises UsageError that lists the names."""
    path = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    if path not in RECIPES.glob("*.yaml"):
        raise UsageError(f"expected a recipe ({', '.join(recipes())}), found {name!r}")
    return path


def recipes() -> dict[str, str]:
    """The first sentence of every recipe, by its name."""
    return {path.stem: _first_sentence(path) for path in sorted(RECIPES.glob("*.yaml"))}


def settings_file(path: Path) -> Path:
    """A settings file: the path, or where no such file is the recipe of that name."""
    shipped_file = RECIPES / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped_file if not path.exists() and path == Path(path.name) and shipped_file.is_file() else path


def _first_sentence(path: Path) -> str:
    """Of the comment at the top of a settings file."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    sentence, stop, _ = " ".join(words).partition(". ")
    return sentence + stop.strip() if stop else sentence


def _or_shipped(path: Path) -> Path:
    beside = WEIGHTS.parent / path
    return beside if not path.exists() and path.parts[:1] == (WEIGHTS.name,) and beside.exists() else path


#: A file or folder of weights. `weights/brain`, where the working directory has no such folder, is the shipped one.
WeightsPath = Annotated[Path, AfterValidator(_or_shipped)]

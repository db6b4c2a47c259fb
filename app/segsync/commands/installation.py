"""`segsync info` and `segsync verify`: what is installed, and whether the weights are whole."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from segsync.bundle import MANIFEST_FILE, MODEL_FILE, SPEC_FILE, load_bundle, load_manifest, verify_files
from segsync.commands.options import WeightsOption, set_up_logging
from segsync.console import show_result
from segsync.errors import WeightsError, os_errors
from segsync.installation import as_table, folders_of_weights, installation
from segsync.predict import WEIGHTS_PLACES

log = logging.getLogger(__name__)


def info(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    weights: WeightsOption = None,
) -> None:
    """Tasks, weights, execution providers and versions, and what of them is missing."""
    set_up_logging()
    facts = installation(weights)
    show_result(json.dumps(facts, indent=2) if as_json else as_table(facts))


def verify(weights: WeightsOption = None) -> None:
    """Compare the files of the weights with their sha256: in manifest.json, or in a single bundle's model.json."""
    set_up_logging()
    places = [weights] if weights is not None else WEIGHTS_PLACES
    with os_errors(WeightsError):
        checked = [folder for place in places for folder in _verified(place)]
    if not checked:
        looked = ", ".join(map(str, places))
        raise WeightsError(f"no {MANIFEST_FILE} or {SPEC_FILE} in one of {looked}; give --weights")


def _verified(place: Path) -> Iterator[Path]:
    """Every folder of weights at this place that is as it should be; raises WeightsError at the first that is not."""
    if (place / MANIFEST_FILE).is_file():
        for name, entry in load_manifest(place / MANIFEST_FILE).tasks.items():
            verify_files(place / name, entry)
            show_result(f"{place / name}: {len(entry.files)} files as in {MANIFEST_FILE}")
            yield place / name
    else:
        for folder in folders_of_weights(place):
            load_bundle(folder)
            show_result(f"{folder}: {MODEL_FILE} as in {SPEC_FILE}")
            yield folder

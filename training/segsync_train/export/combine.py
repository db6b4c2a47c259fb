"""Weights that were exported one by one, put together as an ensemble: no run is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segsync.atomic import whole_folder, why_not
from segsync.bundle import CARD_FILE, SPEC_FILE, ModelSpec, load_bundle, write_manifest
from segsync.errors import InputError, OutputError
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings
from segsync_train.export.card import model_card
from segsync_train.export.ensemble import check_alike, common_axes, common_multiple, network_files, record


def combine(folders: Sequence[Path], weights: Path) -> Path:
    """Write the networks of several folders of weights to `weights/<task>`, where `segsync` averages them.

    Name, licence, operating point and card are those of the first folder: `retune` chooses a point for the ensemble.

    Args:
        folders: Exported weights of one task; an ensemble brings all its networks.
        weights: Folder of all tasks' weights, whose manifest is updated.

    Returns:
        The task's folder.

    Raises:
        InputError: A single network, one given twice, or networks that need different images, grids or windows.
        WeightsError: A folder is damaged, or the common multiple does not divide the window.
        OutputError: Nothing can be written.
    """
    bundles = [load_bundle(folder) for folder in folders]
    check_alike([(bundle.folder, bundle.spec) for bundle in bundles])
    networks = [network for bundle in bundles for network in bundle.networks]
    different = {network.sha256: network for network in networks}
    if len(different) < max(2, len(networks)):
        raise InputError(
            f"{folders[0]}: expected several networks, each once, found {len(networks)} files of {len(different)}; "
            "give the folders of different ones"
        )
    first = bundles[0].spec
    names = network_files(len(networks))
    changed = first.model_dump() | {
        "multiple_zyx": common_multiple([bundle.spec.multiple_zyx for bundle in bundles]),
        "mirror_axes": common_axes([bundle.spec.mirror_axes for bundle in bundles]),
        "further_networks": dict(zip(names[1:], [network.sha256 for network in networks[1:]], strict=True)),
        "provenance": {**first.provenance, **record([one for bundle in bundles for one in _records(bundle.spec)])},
    }
    spec = check_settings(ModelSpec, changed, " and ".join(map(str, folders)))
    card = check_settings(RunConfig, first.provenance.get("config", {}), str(folders[0] / SPEC_FILE)).card
    contents = [network.read_model() for network in networks]
    folder = weights / first.task
    try:
        with whole_folder(folder, replace=True) as part:
            for name, content in zip(names, contents, strict=True):
                (part / name).write_bytes(content)
            (part / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
            (part / CARD_FILE).write_text(model_card(spec, card), encoding="utf-8")
        write_manifest(weights)
    except OSError as error:
        raise OutputError(f"{folder}: expected to write the weights, found {why_not(weights, error)}") from error
    return folder


def _records(spec: ModelSpec) -> list[Mapping[str, Any]]:
    """What is known of each network of a folder."""
    several: list[Mapping[str, Any]] = spec.provenance.get("networks", [])
    return several or [{"run": spec.name, **spec.provenance}]

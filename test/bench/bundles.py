"""Folders of weights made of shipped ones: a peer runs one network, so that one is compared, not an ensemble."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import WEIGHTS

from segsync.bundle import MODEL_FILE, SPEC_FILE, load_bundle_spec
from segsync_train.export.ensemble import network_files


def of_shipped(folder: Path, shipped: str = "isles22", networks: int = 1, **changes: object) -> Path:
    """The first network that is shipped for a task, so many times; changes: fields of its spec."""
    folder.mkdir()
    spec = load_bundle_spec(WEIGHTS / shipped)
    names = network_files(networks)
    for name in names:
        shutil.copy(WEIGHTS / shipped / MODEL_FILE, folder / name)
    changed = spec.model_copy(update={"further_networks": dict.fromkeys(names[1:], spec.sha256), **changes})
    (folder / SPEC_FILE).write_text(changed.model_dump_json())
    return folder


@contextmanager
def one_network(task: str = "isles22") -> Iterator[Path]:
    """A folder of weights with the first network alone, for as long as the context is open."""
    with tempfile.TemporaryDirectory() as scratch:
        yield of_shipped(Path(scratch) / task, task)

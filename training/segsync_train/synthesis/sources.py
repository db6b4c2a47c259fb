"""What cases are drawn from, read once: label maps of heads, lesion masks, real brains; kept in a cache."""

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segsync.atomic import whole_file
from segsync_train.synthesis import masks
from segsync_train.synthesis.anatomy import Anatomies, Anatomy, Scan, read_head
from segsync_train.synthesis.atlas import tissue_atlas
from segsync_train.synthesis.scans import read_scan

log = logging.getLogger(__name__)

#: Raised whenever what is cached changes.
CACHE_VERSION = 1


@dataclass(frozen=True)
class SynthesisSources:
    """Folders of NIfTI files: whole-head label maps, lesion masks in MNI space, skull-stripped T1s without lesions."""

    label_maps: Path
    acute_masks: Path
    chronic_masks: Path
    scans: Path

    @classmethod
    def below(cls, folder: Path) -> "SynthesisSources":
        """The four folders by their usual names below one."""
        return cls(
            folder / "brain-label-maps",
            folder / "lesion-masks-soop",
            folder / "lesion-masks-lesymap",
            folder / "t1-ds002748",
        )


def load_sources(
    sources: SynthesisSources,
    spacing_mm: float,
    device: str | torch.device = "cpu",
    cache: Path | None = None,
    max_heads: int | None = None,
    scans: bool = False,
) -> Anatomies:
    """Read label maps and lesion masks once, at the model's spacing.

    Args:
        sources: Where they lie.
        spacing_mm: The model's spacing.
        device: Where the arrays are kept.
        cache: A folder for what was computed, so that the next start takes seconds.
        max_heads: Read only the first label maps.
        scans: Read the real T1s as well.

    Raises:
        InputError: A folder has no NIfTI file, a label map lacks a structure, or a scan is no skull-stripped T1.
    """
    heads = []
    for file in masks.mask_files(sources.label_maps)[:max_heads]:
        arrays = _cached(cache, "head", (file,), spacing_mm, lambda file=file: read_head(file, spacing_mm))  # type: ignore[misc]
        heads.append(_anatomy(arrays, device))
    return Anatomies(
        tuple(heads),
        _library(sources.acute_masks, spacing_mm, device, cache),
        _library(sources.chronic_masks, spacing_mm, device, cache),
        spacing_mm,
        _scans(sources.scans, heads, spacing_mm, device, cache) if scans else {},
    )


def _scans(
    folder: Path, heads: Sequence[Anatomy], spacing_mm: float, device: str | torch.device, cache: Path | None
) -> dict[str, Anatomy]:
    @functools.cache
    def atlas() -> Tensor:
        return tissue_atlas([head.to("cpu") for head in heads], spacing_mm)

    scans = {}
    for file in masks.mask_files(folder):
        arrays = _cached(cache, "scan", (file,), spacing_mm, lambda file=file: read_scan(file, spacing_mm, atlas()))  # type: ignore[misc]
        scan = Scan(torch.from_numpy(arrays["texture"]), torch.from_numpy(arrays["signals"]))
        scans[file.name.split("_")[0]] = _anatomy(arrays, device, scan)
    return scans


def _anatomy(arrays: dict[str, npt.NDArray[Any]], device: str | torch.device, scan: Scan | None = None) -> Anatomy:
    return Anatomy(
        tissues=torch.from_numpy(arrays["tissues"]),
        field_ppm=torch.from_numpy(arrays["field_ppm"]),
        ventricle_mm=torch.from_numpy(arrays["ventricle_mm"]),
        standard_from_mm=arrays["standard_from_mm"],
        scan=scan,
    ).to(device)


def _library(folder: Path, spacing_mm: float, device: str | torch.device, cache: Path | None) -> masks.MaskLibrary:
    files = masks.mask_files(folder)
    arrays = _cached(cache, "masks", tuple(files), spacing_mm, lambda: masks.read_masks(files, spacing_mm))
    return masks.MaskLibrary(
        voxels=torch.from_numpy(arrays["voxels"]).to(device),
        starts=arrays["starts"],
        shapes=arrays["shapes"],
        origins_mm=arrays["origins_mm"],
        volumes_ml=arrays["volumes_ml"],
        spacing_mm=spacing_mm,
    )


def _cached(
    cache: Path | None,
    kind: str,
    files: tuple[Path, ...],
    spacing_mm: float,
    compute: Callable[[], dict[str, npt.NDArray[np.generic]]],
) -> dict[str, npt.NDArray[Any]]:
    if cache is None:
        return dict(compute())
    key = hashlib.sha256(f"{CACHE_VERSION} {spacing_mm:.4f}".encode())
    for file in files:
        key.update(f"{file.name} {file.stat().st_size}".encode())
    path = cache / f"{kind}-{key.hexdigest()[:16]}.npz"
    if not path.is_file():
        arrays = compute()
        with whole_file(path) as part, part.open("wb") as written:
            np.savez_compressed(written, **arrays)  # type: ignore[arg-type]
        log.info("%s: %s prepared", path.name, f"{len(files)} files" if len(files) > 1 else files[0].name)
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}

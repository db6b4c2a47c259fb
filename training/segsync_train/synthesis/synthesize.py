"""Synthetic cases as NIfTI files in nnU-Net's layout, the same bytes from the same seed.

Patients of a task are `segsync-train synthesize`, healthy brains in several contrasts docs/results/cross_modality.py.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from segsync.errors import OutputError
from segsync.images import stem_of
from segsync_train.synthesis import (
    CHANNELS,
    Generator,
    SynthesisConfig,
    SynthesisSources,
    SyntheticCase,
    load_sources,
)
from segsync_train.synthesis.contrast import CONTRASTS, STRUCTURES, read_brain, render
from segsync_train.synthesis.masks import mask_files

log = logging.getLogger(__name__)

DESCRIPTION_FILE = "dataset.json"


def synthesize(
    task: str,
    n: int,
    output: Path,
    seed: int,
    sources: SynthesisSources,
    spacing_mm: float = 2.0,
    config: SynthesisConfig | None = None,
    cache: Path | None = None,
) -> None:
    """Write cases of a task: `imagesTr`, `labelsTr` and `dataset.json`.

    Always drawn on the processor: a graphics card's random numbers are others.

    Args:
        task: What is drawn.
        n: Number of cases.
        output: Folder of the data set.
        seed: Cases are numbered on from it, so that two folders of different seeds far enough apart share none.
        sources: Label maps and masks to draw from.
        spacing_mm: Of the voxels.
        config: Settings of the drawing; None: the defaults.
        cache: Where the prepared sources are kept.

    Raises:
        InputError: Sources are missing, or the task has no generator.
        OutputError: A file cannot be written.
    """
    generator = Generator(task, load_sources(sources, spacing_mm, cache=cache), config)
    for number in range(n):
        name = f"{task}_{seed + number:06d}"
        write_case(generator(seed + number), output, name)
        log.info("%s written (%d of %d)", name, number + 1, n)
    _write_description(output, CHANNELS[task], ("brain" if task.startswith("brain") else "lesion",), n)


def render_brains(label_maps: Path, output: Path, spacing_mm: float = 2.0, seed: int = 0) -> None:
    """Write every label map of a folder as a case of each of `CONTRASTS`.

    A case has its label map's name in all of them. Folders that are whole are left as they are.

    Args:
        label_maps: Folder of whole-head label maps.
        output: Below it lies a folder a contrast.
        spacing_mm: Of the voxels.
        seed: Of the drawing.

    Raises:
        InputError: A file is no label map of a head.
        OutputError: A file cannot be written.
    """
    files = mask_files(label_maps)
    names = [name for name in CONTRASTS if not (output / name / DESCRIPTION_FILE).is_file()]
    for number, file in enumerate(files if names else ()):
        brain = read_brain(file, spacing_mm)
        for place, contrast in enumerate(CONTRASTS.values()):
            if contrast.name in names:
                own = int(np.random.SeedSequence([seed, number, place]).generate_state(1, np.uint64)[0] >> 1)
                write_case(render(brain, contrast, spacing_mm, own), output / contrast.name, stem_of(file))
        log.info("%s rendered (%d of %d)", file.name, number + 1, len(files))
    for name in names:
        _write_description(output / name, (name,), tuple(STRUCTURES), len(files))


def write_case(case: SyntheticCase, folder: Path, name: str) -> None:
    """Write `imagesTr/NAME_0000.nii.gz` and on, and `labelsTr/NAME.nii.gz`; a channel that is missing is all zeros.

    float32 images and a uint8 label on one grid of identity direction (LPS). ITK's NIfTI writer stores neither name nor
    time in the gzip header, so equal cases give equal bytes.

    Args:
        case: As drawn.
        folder: Of the data set.
        name: Of the case.

    Raises:
        OutputError: A file cannot be written.
    """
    for number, image in enumerate(case.images):
        _write(image, case.spacing_mm, folder / "imagesTr" / f"{name}_{number:04d}.nii.gz")
    _write(case.target, case.spacing_mm, folder / "labelsTr" / f"{name}.nii.gz")


def _write(array: torch.Tensor, spacing_mm: float, path: Path) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.cpu().numpy()))
    image.SetSpacing([spacing_mm] * 3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), useCompression=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise OutputError(f"{path}: cannot be written ({reason}); choose another output folder") from error


def _write_description(output: Path, channels: Sequence[str], labels: Sequence[str], n: int) -> None:
    description = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, **{name: number for number, name in enumerate(labels, start=1)}},
        "numTraining": n,
        "file_ending": ".nii.gz",
    }
    path = output / DESCRIPTION_FILE
    try:
        path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another") from error

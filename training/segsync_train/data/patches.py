"""Batches of patches. Every sample is a function of (seed, step, its place in the batch) alone.

So a run goes on after a kill as if nothing had happened, however many processes prepare the patches, and two processes
see together what one process of twice the batch would see.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from segsync.arrays import Array, LabelMap, SizeZYX
from segsync.errors import InputError, SegsyncError
from segsync_train.data.augment import Augmentation
from segsync_train.data.cases import IGNORED, NEIGHBOURS, LabelledCase

#: First words of the seeds, so that no two uses draw the same numbers.
ORDER, PATCH = 1, 2


class CaseSource(Protocol):
    """Gives the case that a sample is cut from."""

    def case(self, step: int, place: int, places: int) -> LabelledCase:
        """The case of one sample: `place` of `places` in the batch of all processes together."""
        ...


class FolderSource:
    """Every case once in each round, in an order that is new in each round."""

    def __init__(self, cases: Sequence[LabelledCase], seed: int) -> None:
        self.cases = cases
        self.seed = seed

    def case(self, step: int, place: int, places: int) -> LabelledCase:
        """See CaseSource."""
        epoch, position = divmod(step * places + place, len(self.cases))
        order = np.random.default_rng([ORDER, self.seed, epoch]).permutation(len(self.cases))
        return self.cases[int(order[position])]


class Failure:
    """What went wrong while a batch was made. A value travels between processes with its message intact."""

    def __init__(self, where: str, error: Exception) -> None:
        """Keep what went wrong.

        Args:
            where: Step and case.
            error: A SegsyncError speaks for itself, any other is named with where it happened.
        """
        if isinstance(error, SegsyncError):
            # Only errors of one argument can be sent; the exit code of bad input is kept.
            self.error = InputError(str(error)) if isinstance(error, InputError) else SegsyncError(str(error))
        else:
            self.error = SegsyncError(f"{where}: {type(error).__name__}: {error}")


Batch = dict[str, Tensor]


class PatchDataset(Dataset["Batch | Failure"]):
    """Item `step` is this process's batch at that step.

    image: (B, C, z, y, x) float32; label: (B, z, y, x) uint8; regions: (B, z, y, x) int32, see
    `nearest_component` (only if asked for).
    """

    def __init__(
        self,
        source: CaseSource,
        augmentation: Augmentation,
        *,
        batch: int,
        steps: int,
        foreground: float,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        regions: bool = False,
    ) -> None:
        self.source = source
        self.augmentation = augmentation
        self.batch, self.steps, self.foreground, self.seed = batch, steps, foreground, seed
        self.rank, self.processes = rank, processes
        self.regions = regions

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> "Batch | Failure":
        places = self.batch * self.processes
        images, labels = [], []
        where = f"step {step}"
        try:
            for place in range(self.rank * self.batch, (self.rank + 1) * self.batch):
                case = self.source.case(step, place, places)
                where = f"step {step}, case {case.name}"
                image, label = self.sample(case, np.random.default_rng([PATCH, self.seed, step, place]))
                images.append(image)
                labels.append(label)
        except Exception as error:  # whatever it is, the person must see it and not "a worker died"
            return Failure(where, error)
        batch = {"image": torch.from_numpy(np.stack(images)), "label": torch.from_numpy(np.stack(labels))}
        if self.regions:
            batch["regions"] = torch.from_numpy(np.stack([nearest_component(label) for label in labels]))
        return batch

    def sample(self, case: LabelledCase, rng: np.random.Generator) -> tuple[Array, LabelMap]:
        """One augmented patch: about a labelled voxel in the asked fraction of samples, else about tissue."""
        window = self.augmentation.window(rng)
        labelled = rng.random() < self.foreground
        points = case.foreground if labelled and len(case.foreground) else case.inside
        centre = points[rng.integers(len(points))] if len(points) else [side // 2 for side in case.label.shape]
        image, label = cut(case, centre, window, rng)
        return self.augmentation(image, label, rng)


def nearest_component(label: LabelMap) -> npt.NDArray[np.int32]:
    """The number from 1 of the foreground's component nearest to each voxel (z, y, x); 0 without any component."""
    labelled = (label > 0) & (label != IGNORED)
    components: npt.NDArray[np.int32] = ndimage.label(labelled, NEIGHBOURS, output=np.int32)[0]
    if not components.any():
        return components
    nearest = ndimage.distance_transform_edt(components == 0, return_distances=False, return_indices=True)
    found: npt.NDArray[np.int32] = components[tuple(nearest)]
    return found


def cut(case: LabelledCase, centre: Sequence[int], window: SizeZYX, rng: np.random.Generator) -> tuple[Array, LabelMap]:
    """A window about a voxel, off its centre by up to a quarter of its side, kept inside the image where it fits.

    What lies outside is filled with each channel's smallest value, as the sliding window does at inference.
    """
    first = []
    for middle, side, length in zip(centre, window, case.label.shape, strict=True):
        jitter = int(rng.integers(-(side // 4), side // 4 + 1))
        if side >= length:
            first.append(-int(rng.integers(side - length + 1)))
        else:
            first.append(min(max(0, int(middle) - side // 2 + jitter), length - side))
    inside = tuple(slice(max(0, f), min(n, f + s)) for f, s, n in zip(first, window, case.label.shape, strict=True))
    image = np.asarray(case.image[(slice(None), *inside)], dtype=np.float32)
    label = np.asarray(case.label[inside])
    if label.shape == tuple(window):
        return image.copy(), label.copy()
    before = [max(0, -f) for f in first]
    after = [s - b - n for s, b, n in zip(window, before, label.shape, strict=True)]
    pad = list(zip(before, after, strict=True))
    padded = np.stack([np.pad(c, pad, constant_values=low) for c, low in zip(image, case.lowest, strict=True)])
    return padded, np.pad(label, pad)

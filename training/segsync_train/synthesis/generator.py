"""One case from one number: the door of this package."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segsync.errors import InputError
from segsync_train.config.synthesis import SynthesisConfig
from segsync_train.synthesis import diffusion, perfusion, t1
from segsync_train.synthesis.anatomy import Anatomies, Anatomy
from segsync_train.synthesis.fields import Draw
from segsync_train.synthesis.scene import Scene, place

#: Channels of each task, in the order of `segsync.tasks`.
CHANNELS: dict[str, tuple[str, ...]] = {
    "isles22": ("dwi", "adc", "flair"),
    "isles24": ("ncct", "cta", "tmax", "cbf", "cbv", "mtt"),
    "aims-tbi": ("t1",),
    "isles26": ("t1",),
    "brain": ("t1",),
    "brain-ct": ("ct",),
}
#: Draws a placed head: images (C, Z, Y, X), target (Z, Y, X), and which channels are present.
Renderer = Callable[[Draw, Scene, Anatomies, SynthesisConfig], tuple[Tensor, Tensor, tuple[bool, ...]]]
RENDERERS: dict[str, Renderer] = {
    "isles22": diffusion.render,
    "isles24": perfusion.render,
    "aims-tbi": t1.render,
    "isles26": t1.render,
    "brain": t1.render_brain,
    "brain-ct": perfusion.render_brain,
}


@dataclass(frozen=True)
class SyntheticCase:
    """A case as a scanner would give it, resampled to the model's grid.

    Attributes:
        images: (C, Z, Y, X) float32 in raw units (DWI, FLAIR, T1 arbitrary; ADC 1e-6 mm²/s; CT in HU; Tmax and MTT in
            s; CBF in ml/100 g/min; CBV in ml/100 g), not normalised; a missing channel is all zeros. Axes are those of
            an LPS image of identity direction.
        target: (Z, Y, X) uint8, 1 is lesion (of `brain` and `brain-ct`: brain).
        channels: Names.
        spacing_mm: Of the voxels.
        present: Which channels are not missing.
    """

    images: Tensor
    target: Tensor
    channels: tuple[str, ...]
    spacing_mm: float
    present: tuple[bool, ...]


class Generator:
    """Draws cases of one task; the same seed gives the same case on the same kind of device.

    Volumes differ in size (at 2 mm about 80 to 110 voxels a side) and can be smaller than a training patch along Z.
    Raises InputError for a task that has no generator, and for people held out who have no scan.
    """

    def __init__(
        self,
        task: str,
        anatomies: Anatomies,
        config: SynthesisConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if task not in CHANNELS:
            raise InputError(f"expected a task with a generator ({', '.join(CHANNELS)}), found {task!r}")
        self.task = task
        self.config = config or SynthesisConfig()
        self.device = torch.device(device)
        self.anatomies = anatomies.to(self.device)
        self._check_people()

    @torch.no_grad()
    def __call__(self, seed: int, *, held_out: bool = False) -> SyntheticCase:
        """The case of this number; held_out: over the scans of the people who only validate."""
        draw = Draw(seed, self.device)
        head = self._head(draw, held_out)
        acquisition = self.config.t1.acquisition if CHANNELS[self.task] == ("t1",) else self.config.acquisition
        skull_stripped = draw.chance(acquisition.skull_stripped) or head.scan is not None
        scene = place(draw, head, self.config.anatomy, skull_stripped, self.anatomies.spacing_mm)
        images, target, present = RENDERERS[self.task](draw, scene, self.anatomies, self.config)
        return SyntheticCase(images.contiguous(), target, CHANNELS[self.task], self.anatomies.spacing_mm, present)

    def _check_people(self) -> None:
        settings, scans = self.config.t1, self.anatomies.scans
        if settings.scans == 0:
            return
        unknown = sorted(set(settings.held_out) - set(scans))
        if unknown:
            raise InputError(
                f"held_out: expected people among {', '.join(sorted(scans)) or 'no scans'}, found {unknown[0]}"
            )
        if len(scans) == len(settings.held_out):
            raise InputError("held_out: expected some people to train on, found no scan to train on; name fewer")

    def _head(self, draw: Draw, held_out: bool) -> Anatomy:
        settings, scans = self.config.t1, self.anatomies.scans
        if scans and draw.chance(settings.scans):
            people = sorted(name for name in scans if (name in settings.held_out) == held_out)
            return scans[people[draw.integer(0, len(people) - 1)]]
        return self.anatomies.heads[draw.integer(0, len(self.anatomies.heads) - 1)]

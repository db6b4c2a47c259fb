"""The linear probe: what it says of encoders whose features are known."""

import numpy as np
import torch
from torch import Tensor

from segsync.sliding_window import Windows
from segsync_train.data.cases import LabelledCase, build_case
from segsync_train.evaluation.probe import feature_maps, linear_probe
from segsync_train.networks.features import FeatureEncoder

WINDOWS = Windows((8, 8, 8), (2, 2, 2), overlap=0.25)


class Mixed(FeatureEncoder):
    """Two maps, the second half as fine: a mixture of `image` and of noise that is the same in every case."""

    widths = (3, 1)
    strides_zyx = ((1, 1, 1), (2, 2, 2))

    def __init__(self, image: float) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor) -> list[Tensor]:
        noise = torch.randn(3, *x.shape[2:], generator=torch.Generator().manual_seed(0))
        mixing = torch.tensor([[1.0], [-2.0], [0.0]])
        fine = self.image * (mixing @ x[0].flatten(1)).reshape(noise.shape) + noise
        return [fine[None], x[:, :1, ::2, ::2, ::2] * 0]


def cases(seed: int, count: int) -> list[LabelledCase]:
    """Noise as an image, and the brightest voxels as one label, the darkest as the other."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = rng.choice(3, (11, 9, 8), p=[0.6, 0.2, 0.2]).astype(np.uint8)
        image = np.array([0.0, 3.0, -3.0], dtype=np.float32)[label]
        tissue = np.ones(label.shape, dtype=bool)
        found.append(build_case(f"c{number}", image[None], label, tissue, (1.0, 1.0, 1.0)))
    return found


def test_labels_that_follow_from_the_features_are_found_and_others_are_not() -> None:
    known, unknown = (
        np.mean([score.dice for score in linear_probe(Mixed(image), cases(0, 2), cases(1, 2), 2, WINDOWS)])
        for image in (10.0, 0.0)
    )
    assert known > 0.99
    assert unknown < 0.2


def test_maps_of_every_stage_lie_on_the_voxels() -> None:
    (case,) = cases(0, 1)
    maps = feature_maps(Mixed(10.0), case, WINDOWS)
    assert maps.shape == (4, 11, 9, 8)
    assert np.corrcoef(maps[0].ravel(), case.image.ravel())[0, 1] > 0.99
    assert not maps[3].any()

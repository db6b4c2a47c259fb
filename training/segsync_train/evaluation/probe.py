"""A linear probe: how far labels follow from an encoder's features while the encoder stands still.

Fine-tuning changes an encoder more than pretraining did, so that its Dice says little of what pretraining brought. Here
every voxel's features, the maps of all stages side by side, are mapped to labels by a logistic regression alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from segsync.arrays import Array
from segsync.sliding_window import Windows, predict
from segsync_train.data.cases import LabelledCase
from segsync_train.networks.features import FeatureEncoder
from segsync_train.trainer.validation import CaseScore, score_case

#: Inverse weight of the squared norm, as scikit-learn has it: with thousands of voxels hardly a restraint.
C = 0.1
ITERATIONS = 300


def linear_probe(
    encoder: FeatureEncoder,
    training: Sequence[LabelledCase],
    test: Sequence[LabelledCase],
    labels: int,
    windows: Windows,
) -> list[CaseScore]:
    """Score a logistic regression on an encoder's features: each voxel of the tissue is given its most probable label.

    Args:
        encoder: On the CPU; it is left in evaluation mode.
        training: Cases on whose voxels `LabelledCase.inside`, drawn from all tissue alike, the regression is fitted.
        test: Cases that are scored.
        labels: Their number, without the background.
        windows: How a volume is covered.

    Returns:
        Scores of the test cases.
    """
    encoder.eval()
    features, found = [], []
    for case in training:
        voxels = tuple(np.asarray(case.inside).T)
        features.append(feature_maps(encoder, case, windows)[:, *voxels].T)
        found.append(np.asarray(case.label)[voxels])
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=ITERATIONS))
    regression.fit(np.concatenate(features), np.concatenate(found))
    scores = []
    for case in test:
        tissue = np.asarray(case.tissue)
        predicted = np.zeros(case.label.shape, dtype=np.uint8)
        predicted[tissue] = regression.predict(feature_maps(encoder, case, windows)[:, tissue].T)
        scores.append(score_case(case, predicted, [(place,) for place in range(1, labels + 1)]))
    return scores


def feature_maps(encoder: FeatureEncoder, case: LabelledCase, windows: Windows) -> Array:
    """The maps of all stages of a case, interpolated to its voxels: (sum of widths, Z, Y, X)."""
    maps, _ = predict(
        np.array(case.image), _side_by_side(encoder), sum(encoder.widths), windows, tissue=np.array(case.tissue)
    )
    return maps


def _side_by_side(encoder: FeatureEncoder) -> Callable[[Array], Array]:
    """A predictor for `segsync.sliding_window`."""

    @torch.inference_mode()
    def predictor(window: Array) -> Array:
        maps: Sequence[Tensor] = encoder(torch.from_numpy(window))
        size = window.shape[2:]
        joined: Array = torch.cat([F.interpolate(m, size=size, mode="trilinear") for m in maps], dim=1).numpy()
        return joined

    return predictor

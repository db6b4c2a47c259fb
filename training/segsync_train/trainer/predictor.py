"""A network in torch on the runtime's way of a case: what validation, tuning and the evaluation of runs measure."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from segsync.arrays import Array
from segsync.bundle import InferenceSpec
from segsync.pipeline import Pipeline
from segsync.preprocess import RegionFinder
from segsync.sliding_window import Predictor
from segsync_train.config.training import Amp
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.outputs import probabilities
from segsync_train.runs.devices import amp_dtype, autocast


def foreground_predictor(
    network: Callable[[Tensor], Tensor],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
    *,
    overlapping: bool = False,
) -> Predictor:
    """Wrap a network for the sliding window.

    Args:
        network: Gives logits (N, 1 + L, z, y, x), background first; of labels that overlap (N, L, z, y, x).
        device: Where it lies.
        autocast: The precision that it is called with.
        overlapping: Whether labels overlap (regions).

    Returns:
        A predictor (1, C, z, y, x) -> probabilities of the labels (1, L, z, y, x).
    """

    def predictor(array: Array) -> Array:
        with torch.inference_mode(), autocast():
            logits = network(torch.from_numpy(array).to(device))
        found: Array = probabilities(logits.float(), overlapping=overlapping).cpu().numpy()
        return found

    return predictor


def torch_pipeline(
    spec: InferenceSpec,
    network: SegmentationNetwork,
    device: torch.device,
    amp: Amp,
    *,
    region_model: RegionFinder | None = None,
) -> Pipeline:
    """The pipeline of a run's network.

    Args:
        spec: What the way from images to labels needs of it, as `RunConfig.inference_spec` gives it.
        network: Its network, on `device`.
        device: Where it lies.
        amp: The run's mixed precision.
        region_model: What the run's `region_model` names, opened; None for cases that are prepared already.

    Returns:
        The same way that the exported weights will go, with torch as the predictor.
    """
    precision = partial(autocast, amp_dtype(amp, device), device)
    predictor = foreground_predictor(network, device, precision, overlapping=bool(spec.regions))
    return Pipeline(spec, predictor, region_model=region_model)

"""Batches prepared ahead by other processes; whatever goes wrong there is raised here, in its own words."""

import multiprocessing
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from segsync.errors import ResourceError
from segsync_train.data.patches import Batch, Failure, PatchDataset

#: Batches that each process keeps ready: enough to hide the making of a synthetic case.
AHEAD = 6


def batches(dataset: PatchDataset, first: int, workers: int, device: torch.device) -> Iterator[Batch]:
    """The batches of a step and of all after it, on the device.

    Args:
        dataset: Makes them.
        first: The first step.
        workers: Processes that prepare them ahead; 0: they are made when asked for.
        device: Where they are brought.

    Yields:
        A batch a step.

    Raises:
        SegsyncError: Of the Failure that a worker gave.
        ResourceError: The system ended a worker.
    """
    if workers:
        # A server that has only imported is forked: no locks of the parent's threads, and the imports are shared.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["segsync_train.data.loader"])
        loader: DataLoader[Batch | Failure] = DataLoader(
            dataset,
            batch_size=None,
            sampler=range(first, len(dataset)),
            num_workers=workers,
            prefetch_factor=AHEAD,
            multiprocessing_context=context,
            worker_init_fn=_start_worker,
            pin_memory=device.type == "cuda",
        )
    else:
        loader = DataLoader(dataset, batch_size=None, sampler=range(first, len(dataset)))
    made = iter(loader)
    while True:
        try:
            batch = next(made, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ResourceError(
                f"a process that prepares patches was ended by the system ({error}), most often for want of memory; "
                "set fewer workers or fewer data.cases_in_memory"
            ) from error
        if batch is None:
            return
        if isinstance(batch, Failure):
            raise batch.error
        yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _start_worker(number: int) -> None:
    """Workers have one thread each: together they use the cores that there are."""
    torch.set_num_threads(1)

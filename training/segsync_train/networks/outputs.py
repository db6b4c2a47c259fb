"""From a network's output to probabilities: the one place that knows whether labels exclude each other."""

from torch import Tensor


def probabilities(logits: Tensor, *, overlapping: bool = False) -> Tensor:
    """The labels' probabilities (N, L, Z, Y, X).

    Args:
        logits: (N, 1 + L, Z, Y, X), background first; of labels that overlap (N, L, Z, Y, X).
        overlapping: Whether labels overlap (regions), so that each has a probability of its own.

    Returns:
        A softmax over labels and background, the latter left out; or a sigmoid.
    """
    return logits.sigmoid() if overlapping else logits.softmax(1)[:, 1:]

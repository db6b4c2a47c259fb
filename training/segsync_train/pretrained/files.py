"""A file of weights as others write them: tensors by name, read without running any code that the file holds."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segsync.errors import WeightsError

#: Where a file keeps its network: nnU-Net and nnssl; MONAI, SwinUNETR, SwinMM, Hi-End-MAE; others.
STATES = ("network_weights", "state_dict", "model_state_dict", "model", "net", "teacher", "student")
#: What wrappers put before every name: DataParallel, torch.compile, a pretraining's own module.
PREFIXES = ("module.", "_orig_mod.", "backbone.")
#: nnU-Net logs its scores as NumPy's numbers: plain values, no code.
NUMBERS: list[Any] = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]


@dataclass(frozen=True)
class ForeignWeights:
    """What a file holds: the network's tensors, without wrappers' prefixes, and everything beside them."""

    path: Path
    tensors: dict[str, Tensor]
    beside: Mapping[str, Any]


def read_weights(path: Path) -> ForeignWeights:
    """Read a file of torch (`weights_only`) or safetensors to the CPU.

    Args:
        path: The file.

    Returns:
        Its tensors, and what else it says.

    Raises:
        WeightsError: It is missing, damaged, holds no tensors, or holds pickled objects other than tensors, numbers and
            text.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: expected a file of weights, found no such file; check the path")
    found = _read(path)
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path}: expected tensors by name, found {type(found).__name__}; give a state dict")
    state = next((found[key] for key in STATES if isinstance(found.get(key), Mapping)), found)
    tensors = {_plain(str(name)): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: expected tensors by name, found keys {', '.join(map(str, found))[:80]!r}")
    beside = {} if state is found else {str(key): value for key, value in found.items() if value is not state}
    return ForeignWeights(path, tensors, beside)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: expected tensors, numbers and text alone, found {_refused(error)}; it is not opened, since "
            "unpickling it could run any code: save its state dict alone"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:100]
        raise WeightsError(f"{path}: not a whole file of weights ({reason}); fetch it anew") from error


def _refused(error: Exception) -> str:
    """What of torch's long message says which object was refused."""
    words = str(error)
    _, _, after = words.partition("GLOBAL ")
    return after.split()[0].rstrip(".,") if after else " ".join(words.split())[:80]


def _plain(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name

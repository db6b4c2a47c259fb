"""OpenVINO behind the calls that the engine makes of an ONNX Runtime session; the extra `openvino`.

Its convolutions keep channels in blocks as wide as the processor's vectors, where ONNX Runtime copies every
neighbourhood of a voxel into a matrix: a window takes about half the time on processors with AVX-512.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segsync.arrays import Array
from segsync.errors import ResourceError

Precision = Literal["f32", "bf16"]


@dataclass(frozen=True)
class Port:
    """An input or output: its name, and its shape with None for what stays free."""

    name: str
    shape: tuple[int | None, ...]


class OpenVINOSession:
    """A network on the CPU, compiled for a size of windows when the first of that size comes."""

    def __init__(self, model: bytes, threads: int, precision: Precision) -> None:
        """Read the network.

        Args:
            model: The ONNX file.
            threads: As many as it may use.
            precision: Of convolutions and products; bf16 where the processor has units for it, else float32.

        Raises:
            ValueError: The file keeps weights in another one.
        """
        if b"location" in model:  # the key of the other file's name; OpenVINO would look for it in the current folder
            raise ValueError("external data")
        self._model = _core().read_model(model=model)
        self._settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned threads wait where another process runs, though the processor beside it is free.
            "ENABLE_CPU_PINNING": False,
        }
        self._requests: dict[tuple[int, ...], Any] = {}

    def get_inputs(self) -> list[Port]:
        """The inputs."""
        return [_port(port) for port in self._model.inputs]

    def get_outputs(self) -> list[Port]:
        """The outputs."""
        return [_port(port) for port in self._model.outputs]

    def run(self, _names: None, inputs: dict[str, Array]) -> list[npt.NDArray[np.generic]]:
        """All outputs of one input, by its name."""
        ((name, windows),) = inputs.items()
        request = self._requests.get(windows.shape)
        if request is None:
            self._model.reshape({name: list(windows.shape)})
            request = _core().compile_model(self._model, "CPU", self._settings).create_infer_request()
            # A case has windows of one size; the others' memory is given back.
            self._requests = {windows.shape: request}
        found = request.infer({name: windows})
        return [np.array(found[index]) for index in range(len(found))]


def runtime() -> Any:
    """OpenVINO's module; raises ResourceError where it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise ResourceError(
            "--device openvino: OpenVINO is not installed; pip install 'segsync-isles[cpu,openvino]'"
        ) from error
    return openvino


@functools.cache
def _core() -> Any:
    """One core for the life of the process.

    With its first network each core gives the thread a stack for signal handlers, and frees it when the core goes. Of
    two cores the second then puts the first one's freed stack back, and the next signal ends the process.
    """
    return runtime().Core()


def _port(port: Any) -> Port:
    shape = tuple(side.get_length() if side.is_static else None for side in port.partial_shape)
    return Port(port.any_name, shape)

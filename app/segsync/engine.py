"""A network as a predictor: device, threads, warm-up; by ONNX Runtime, or by OpenVINO where it is asked for."""

import contextlib
import ctypes
import functools
import logging
import re
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segsync import openvino_session
from segsync.arrays import Array, SizeZYX
from segsync.bundle import Bundle
from segsync.errors import OUT_OF_MEMORY, ResourceError, UsageError, WeightsError
from segsync.openvino_session import Precision
from segsync.processor import say_threads, shared, threads

log = logging.getLogger(__name__)

DEVICE = re.compile(r"auto|cpu|openvino(:bf16)?|cuda(:\d+)?")
#: The library of the NVIDIA driver.
CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
#: How far a probability may lie beyond 0 and 1 by rounding.
ROUNDING = 1e-2
#: Standard output belongs to the whole process: one thread at a time may lead it elsewhere and back.
STANDARD_OUTPUT = threading.Lock()


@dataclass(frozen=True)
class Device:
    """Where the network runs: `cpu`, or the GPU with this number; openvino: the CPU, by OpenVINO in this precision."""

    cuda: int | None = None
    openvino: Precision | None = None

    def __str__(self) -> str:
        if self.openvino:
            return "openvino" if self.openvino == "f32" else f"openvino:{self.openvino}"
        return "cpu" if self.cuda is None else f"cuda:{self.cuda}"


def choose_device(wanted: str) -> Device:
    """Choose a device that is there.

    Args:
        wanted: `cpu`, `openvino`, `openvino:bf16`, `cuda`, `cuda:N`, or `auto`: the first GPU that both the driver and
            the installed ONNX Runtime can use, else the CPU.

    Returns:
        The device.

    Raises:
        ResourceError: A GPU is asked for and missing.
        UsageError: Another word.
    """
    if not DEVICE.fullmatch(wanted):
        raise UsageError(f"--device: expected auto, cpu, openvino, openvino:bf16, cuda or cuda:N, found {wanted!r}")
    if wanted == "cpu":
        return Device()
    if wanted.startswith("openvino"):
        return Device(openvino="bf16" if wanted.endswith("bf16") else "f32")
    number = int(wanted.partition(":")[2] or 0)
    reason = _why_no_cuda(number)
    if reason is None:
        return Device(number)
    if wanted == "auto":
        log.info("no GPU: %s; running on the CPU", reason)
        return Device()
    raise ResourceError(f"--device {wanted}: no GPU ({reason}); use --device cpu or auto")


def providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime."""
    return list(_runtime().get_available_providers())


def _why_no_cuda(number: int) -> str | None:
    if "CUDAExecutionProvider" not in providers():
        return "this ONNX Runtime is built for the CPU alone; install the extra `gpu`"
    try:
        driver = ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return f"no NVIDIA driver ({CUDA_DRIVER}); start the container with --gpus all"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver shows no device"
    if number >= count.value:
        return f"the NVIDIA driver shows {count.value}, numbered from 0"
    return None


def _runtime() -> Any:
    # Imported late: `segsync --help` and the checks of a folder need no engine.
    try:
        import onnxruntime
    except ImportError as error:
        raise ResourceError(
            "ONNX Runtime is not installed; pip install 'segsync-isles[cpu]', or 'segsync-isles[gpu]' for CUDA 12"
        ) from error
    return onnxruntime


class Engine:
    """A verified network on a device: a call maps (N, C, Z, Y, X) float32 to (N, L, Z, Y, X) float32."""

    def __init__(self, bundle: Bundle, device: Device, *, memory_bytes: int | None = None) -> None:
        """Open the network.

        Args:
            bundle: The verified weights.
            device: Where it runs.
            memory_bytes: What the GPU's arena may hold; None for all there is.

        Raises:
            WeightsError: The network does not match its `model.json`.
            ResourceError: Memory has ended.
        """
        self.bundle = bundle
        self.device = device
        say_threads()
        model = bundle.read_model()
        runtime = openvino_session.runtime() if device.openvino else _runtime()
        try:
            if device.openvino:
                self._session: Any = openvino_session.OpenVINOSession(model, threads(), device.openvino)
            else:
                self._session = _session(runtime, model, bundle, device, memory_bytes)
        except Exception as error:  # the engines' errors share no base class but Exception
            if OUT_OF_MEMORY.search(str(error)):
                raise ResourceError(f"{bundle.model}: expected memory for the network, found too little") from error
            if "xternal data" in str(error):
                raise WeightsError(
                    f"{bundle.model}: expected a file with all its weights, found some kept in another file, which no "
                    "sha256 covers; export it as one file"
                ) from error
            raise WeightsError(
                f"{bundle.model}: expected a network that {'OpenVINO' if device.openvino else 'ONNX Runtime'} "
                f"{runtime.__version__} opens, found: {_first_line(error)}; export it again"
            ) from error
        if device.cuda is not None and "CUDAExecutionProvider" not in self._session.get_providers():
            raise ResourceError(
                f"--device {device}: ONNX Runtime could not start on the GPU (driver too old for CUDA 12, or its "
                "libraries are missing); use --device cpu, or install the extra `gpu`"
            )
        self._check_signature()

    def _check_signature(self) -> None:
        spec, inputs, outputs = self.bundle.spec, self._session.get_inputs(), self._session.get_outputs()
        expected = (len(spec.channels), len(spec.labels))
        found = tuple(io[0].shape[1] if len(io) == 1 and len(io[0].shape) == 5 else None for io in (inputs, outputs))
        if found != expected:
            raise WeightsError(
                f"{self.bundle.model}: expected {expected[0]} input channels and {expected[1]} labels as model.json "
                f"says, found {found[0]} and {found[1]}; export it again"
            )
        self._input = inputs[0].name

    def __call__(self, windows: Array) -> Array:
        """Probabilities (N, L, Z, Y, X) of windows (N, C, Z, Y, X).

        Raises MemoryError where they do not fit, WeightsError where the network fails or gives what are no
        probabilities. A GPU that fails on the way is left for the CPU.
        """
        try:
            probabilities: npt.NDArray[np.float32] = self._session.run(None, {self._input: windows})[0]
        except Exception as error:  # as above
            if OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(_first_line(error)) from error
            if self.device.cuda is not None:
                log.warning("%s failed (%s); going on on the CPU", self.device, _first_line(error))
                self.device = Device()
                self._session.set_providers(["CPUExecutionProvider"])
                return self(windows)
            raise WeightsError(
                f"{self.bundle.model}: the network failed on windows of shape {windows.shape}: {_first_line(error)}; "
                "export it again"
            ) from error
        self._check(probabilities, (len(windows), len(self.bundle.spec.labels), *windows.shape[2:]))
        return probabilities

    def _check(self, probabilities: npt.NDArray[np.generic], shape: tuple[int, ...]) -> None:
        """Anything else would become an empty mask, or one of everything."""
        if probabilities.shape != shape:
            raise WeightsError(
                f"{self.bundle.model}: expected probabilities of shape {shape}, found {probabilities.shape}; "
                "export it again"
            )
        low, high = float(probabilities.min()), float(probabilities.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # nor is NaN, which min and max hand on
            raise WeightsError(
                f"{self.bundle.model}: expected probabilities of 0 to 1, found values of {low:g} to {high:g}; export a "
                "network that ends in a softmax or sigmoid, or train it again"
            )

    def warm_up(self, patch_zyx: SizeZYX) -> None:
        """Run one empty window, so that the first case does not pay for choosing kernels."""
        self(np.zeros((1, len(self.bundle.spec.channels), *patch_zyx), dtype=np.float32))


def open_engine(bundle: Bundle, wanted: str, *, memory_bytes: int | None = None) -> Engine:
    """The network that a bundle means, on a device (see `choose_device`); `auto` takes the CPU where the GPU fails."""
    device = choose_device(wanted)
    try:
        return Engine(bundle, device, memory_bytes=memory_bytes)
    except ResourceError as error:
        if wanted != "auto" or device.cuda is None:
            raise
        log.warning("%s; running on the CPU", error)
        return Engine(bundle, Device(), memory_bytes=memory_bytes)


def open_engines(bundle: Bundle, wanted: str, *, memory_bytes: int | None = None) -> list[Engine]:
    """An engine for each of the bundle's networks (see `open_engine`), whose probabilities are to be averaged."""
    return [open_engine(network, wanted, memory_bytes=memory_bytes) for network in bundle.networks]


def _session(runtime: Any, model: bytes, bundle: Bundle, device: Device, memory_bytes: int | None) -> Any:
    """The network in ONNX Runtime."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, and told in one line here
    options.intra_op_num_threads = threads()
    if shared():
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # No sha256 covers weights that the file keeps in another one: they are looked for in a place that cannot be.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(bundle.model / "nowhere")
    )
    if bundle.spec.further_networks and device.cuda is None:
        # The networks run one after the other: one arena holds the windows of all.
        _share_arena(runtime)
        options.add_session_config_entry("session.use_env_allocators", "1")
    # Of a GPU that does not start it speaks on standard output, where results go.
    with STANDARD_OUTPUT, contextlib.redirect_stdout(sys.stderr):
        session = runtime.InferenceSession(model, options, providers=_providers(runtime, device, memory_bytes))
    session.disable_fallback()  # which speaks there too; what fails on the way is seen to in Engine.__call__
    return session


@functools.cache
def _share_arena(runtime: Any) -> None:
    """Make the arena that sessions may share; once a process."""
    place = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    runtime.create_and_register_allocator(place, None)


def _providers(runtime: Any, device: Device, memory_bytes: int | None) -> list[object]:
    if device.cuda is None:
        return ["CPUExecutionProvider"]
    runtime.preload_dlls()  # CUDA and cuDNN from their pip packages
    settings = {"device_id": str(device.cuda), "cudnn_conv_algo_search": "HEURISTIC"}
    if memory_bytes is not None:
        settings["gpu_mem_limit"] = str(memory_bytes)
    return [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]

"""A window by every engine for a CPU, and whether the faster ones give the same masks of real people."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from bundles import one_network
from pipeline import WEIGHTS, channels
from sections import Pair, Section, amount
from shipped import shipped_network

from segsync.arrays import Array, Mask
from segsync.bundle import MODEL_FILE, load_bundle
from segsync.engine import open_engine
from segsync.images import read
from segsync.pipeline import Case, Options, Pipeline, Segmentation
from segsync.processor import choose_threads
from segsync_train.networks.onnx_file import Probabilities

ROUNDS = 5
VALIDATION = WEIGHTS.parent / "data" / "isles22-validation"
DEVICES = {"cpu": "ONNX Runtime", "openvino": "OpenVINO, float32", "openvino:bf16": "OpenVINO, bfloat16"}

Form = Callable[[Array], Array]


def measure() -> Iterator[Section]:
    """Processor time of one thread, which a busy neighbour hardly changes; forms in turn."""
    choose_threads(1)
    torch.set_num_threads(1)
    engines = opened()
    yield windows(engines)
    yield masks({name: form for name, (form, _) in engines.items()})


def opened() -> dict[str, tuple[Form, float]]:
    """The engines that are installed, with the processor time until their first window was there."""
    found: dict[str, tuple[Form, float]] = {}
    with one_network() as weights:
        bundle = load_bundle(weights)
        for device, name in DEVICES.items():
            if device == "cpu" or find_spec("openvino") is not None:
                began = time.process_time()
                engine = open_engine(bundle, device)
                engine.warm_up(bundle.spec.patch_zyx)
                found[name] = (engine, time.process_time() - began)
    return found


def windows(engines: Mapping[str, tuple[Form, float]]) -> Section:
    """A window of 64³ of noise."""
    window = np.random.default_rng(0).standard_normal((1, 3, 64, 64, 64)).astype(np.float32)
    network = Probabilities(shipped_network())

    def eager(array: Array) -> Array:
        with torch.inference_mode():
            result: Array = network(torch.from_numpy(array)).numpy()
        return result

    ready, session = saved_graph()

    def saved(array: Array) -> Array:
        result: Array = session.run(None, {"image": array})[0]
        return result

    forms = {name: form for name, (form, _) in engines.items()} | {
        "ONNX Runtime, graph saved after its optimisation": saved,
        "torch, eager": eager,
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(ROUNDS + 1):
        for name, form in forms.items():
            began = time.process_time()
            form(window)
            if round_:  # the first warms up
                seconds[name].append(time.process_time() - began)
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    starts = {name: start for name, (_, start) in engines.items()} | {
        "ONNX Runtime, graph saved after its optimisation": ready
    }
    rows = tuple(
        (
            name,
            amount(middle[name], "s"),
            f"{middle['torch, eager'] / middle[name]:.2f}",
            f"{starts[name]:.2f} s" if name in starts else "",
        )
        for name in forms
    )
    pairs = tuple(Pair(f"a window by {name}", "torch", middle[name], middle["torch, eager"]) for name in engines)
    columns = ("engine", "a window", "torch / this", "opened, with its first window")
    note = "Of noise, the isles22 network, one thread, processor time. OpenVINO is `--device openvino`."
    return Section("A window of 64³ by every engine", columns, rows, note, pairs)


def saved_graph() -> tuple[float, onnxruntime.InferenceSession]:
    """A session of the graph as ONNX Runtime leaves it after its optimisation, and the time until its first window."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.optimized_model_filepath = str(Path(folder) / MODEL_FILE)
        onnxruntime.InferenceSession(WEIGHTS / "isles22" / MODEL_FILE, options, providers=["CPUExecutionProvider"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        began = time.process_time()
        session = onnxruntime.InferenceSession(Path(folder) / MODEL_FILE, options, providers=["CPUExecutionProvider"])
        session.run(None, {"image": np.zeros((1, 3, 64, 64, 64), np.float32)})
    return time.process_time() - began, session


def masks(engines: Mapping[str, Form]) -> Section:
    """Dice with the reference mask and with ONNX Runtime's, without mirroring."""
    cases: dict[str, tuple[Case, Mask | None]] = {"the bundled case": (Case("bundled", channels()), None)}
    for folder in sorted(VALIDATION.glob("sub-*")):
        files = {name: folder / f"{folder.name}_{name}.nii.gz" for name in ("dwi", "adc")}
        reference = np.asarray(read(folder / f"{folder.name}_lesion-msk.nii.gz").array) > 0
        cases[folder.name] = (Case(folder.name, files), reference)
    spec = load_bundle(WEIGHTS / "isles22").spec
    rows = []
    for title, (case, mask) in cases.items():
        first: tuple[Segmentation, float] | None = None
        for name, form in engines.items():
            began = time.process_time()
            found = Pipeline(spec, form, reference="dwi").segment(case, Options())
            seconds = time.process_time() - began
            first = first or (found, seconds)
            off = np.abs(found.model_probabilities - first[0].model_probabilities).max()
            rows.append(
                (
                    title,
                    name,
                    amount(seconds, "s"),
                    f"{first[1] / seconds:.2f}",
                    "" if mask is None else f"{dice(found.mask > 0, mask):.4f}",
                    f"{dice(found.mask > 0, first[0].mask > 0):.4f}",
                    f"{off:.4f}",
                )
            )
    columns = (
        "case", "engine", "time", "ONNX Runtime / this", "Dice", "Dice with ONNX Runtime's",
        "largest difference of a probability",
    )  # fmt: skip
    note = "From files to masks, one network, one thread, processor time; not mirrored. Dice is with an expert's mask."
    return Section("Masks of real people by every engine", columns, tuple(rows), note)


def dice(a: Mask, b: Mask) -> float:
    """Of two masks; 1 where both are empty."""
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0

"""The runtime's steps of `make gpu`: is the CUDA provider right, is it fast, and what if there is no GPU?"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from bundles import one_network
from gpu_worker import Row, gpu_memory, milliseconds, serve, used_mib
from onnx import TensorProto, helper
from pipeline import WEIGHTS, channels

import segsync
from segsync.bundle import MODEL_FILE, SPEC_FILE
from segsync.predict import Result, Settings

CASE = "The bundled case: CUDA against the CPU"
WINDOW = "One window, every engine"
DEVICES = "Devices, as the command chooses them"
#: Parts of the graph that stay float32, by their nodes' names: normalisation, whose squares float16 does not hold, and
#: the mLSTM, whose exponents reach down to -1e30 and whose quotients cancel.
EXACT = ("norm", "/paths.")


def provider(dry: bool) -> Iterator[Row]:
    """Masks and probabilities of the bundled case, then windows, in float32 and float16."""
    device = "cpu" if dry else "cuda"
    with tempfile.TemporaryDirectory() as folder, one_network() as full:
        half = half_bundle(full, Path(folder))
        expected = segsync.load("isles22", weights=full, device="cpu").predict(channels(), Settings(tta="none"))
        yield {"section": CASE, "": "cpu, float32", **figures(expected, expected)}
        for precision, weights in (("float32", full), ("float16", half)):
            if dry and precision == "float32":
                continue  # it is the row above
            with gpu_memory(dry) as memory:
                model = segsync.load("isles22", weights=weights, device=device)
                if not dry:
                    model.engine.warm_up(model.bundle.spec.patch_zyx)
                for tta in ("none",) if dry else ("none", "mirror"):
                    found = model.predict(channels(), Settings(tta=tta))  # type: ignore[arg-type]
                    words = f"{model.engine.device}, {precision}{', mirrored' if tta == 'mirror' else ''}"
                    yield {"section": CASE, "": words, **figures(found, expected), "GPU, MiB": memory().get("0")}
        yield from windows(dry, half / MODEL_FILE)


def figures(found: Result, expected: Result) -> Row:
    """Speed, and how far a result lies from the CPU's; mirrored ones are expected to differ."""
    both = int(((found.mask > 0) & (expected.mask > 0)).sum())
    total = int((found.mask > 0).sum() + (expected.mask > 0).sum())
    difference = np.abs(found.model_probabilities - expected.model_probabilities).max()
    return {
        "mask equal": bool(np.array_equal(found.mask, expected.mask)),
        "Dice with the CPU's": 2 * both / total if total else 1.0,
        "largest difference of a probability": float(difference),
        "case, s": found.seconds["total"],
        "network, s": found.seconds["network"],
    }


def windows(dry: bool, half: Path) -> Iterator[Row]:
    """Milliseconds a window in ONNX Runtime, and the largest difference from the CPU's probabilities."""
    side = 16 if dry else 64
    window = np.random.default_rng(0).standard_normal((1, 3, side, side, side)).astype(np.float32)
    full = WEIGHTS / "isles22" / MODEL_FILE
    onnxruntime.preload_dlls()
    cpu = session(full, ["CPUExecutionProvider"])
    expected = cpu.run(None, {"image": window})[0]
    cuda = "CUDAExecutionProvider"
    variants: dict[str, Any] = {
        "ONNX Runtime, float16": session(half, ["CPUExecutionProvider"] if dry else [cuda, "CPUExecutionProvider"])
    }
    if not dry:
        for name, options in (("float32 by TF32", {}), ("float32", {"use_tf32": "0"})):
            variants[f"ONNX Runtime, {name}"] = session(full, [(cuda, options), "CPUExecutionProvider"])
    forms = {name: lambda it=it: it.run(None, {"image": window}) for name, it in variants.items()}
    times = milliseconds(forms, 1 if dry else 20)
    for name, it in variants.items():
        off = float(np.abs(it.run(None, {"image": window})[0] - expected).max())
        yield {"section": WINDOW, "engine": name, "ms": times[name], "largest difference from the CPU": off}


def session(path: Path, providers: list[Any]) -> Any:
    """A network in ONNX Runtime, on these providers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def half_bundle(bundle: Path, folder: Path) -> Path:
    """A bundle's copy that computes in float16 and is given and gives float32."""
    shutil.copy(bundle / SPEC_FILE, folder)
    onnx.save(halved(onnx.load(bundle / MODEL_FILE)), folder / MODEL_FILE)
    spec = json.loads((folder / SPEC_FILE).read_text())
    spec["sha256"] = hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    return folder


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network in float16 but for its exact parts, with a Cast only where a map goes from one to the other.

    ONNX Runtime's own converter rounds what is between two exact nodes to float16 as well, where -1e30 is -inf.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    typed = (*graph.value_info, *graph.input, *graph.output)
    floats = {value.name for value in typed if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    half: set[str] = set()
    nodes: dict[str, onnx.NodeProto] = {}

    def cast(name: str, to: int) -> str:
        found = f"{name}_as_{TensorProto.DataType.Name(to)}"
        nodes.setdefault(found, helper.make_node("Cast", [name], [found], found, to=to))
        return found

    for node in graph.node:
        exact = node.op_type == "Cast" or any(part in node.name for part in EXACT)
        halves = not exact and any(name in floats for name in node.input)
        for at, name in enumerate(node.input):
            wanted = halves and not (node.op_type == "Resize" and at)  # whose factors are float32 always
            if name in floats and wanted != (name in half):
                node.input[at] = cast(name, TensorProto.FLOAT16 if wanted else TensorProto.FLOAT)
        if halves:
            half.update(name for name in node.output if name in floats)
        nodes[node.output[0]] = node
    for output in graph.output:
        last = nodes[output.name]
        last.output[0] = f"{output.name}_half"
        nodes["the end"] = helper.make_node("Cast", [last.output[0]], [output.name], to=TensorProto.FLOAT)
    del graph.node[:]
    graph.node.extend(nodes.values())
    del graph.value_info[:]
    whole = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def devices(dry: bool) -> Iterator[Row]:
    """`segsync predict` with each --device: exit codes, and the last line that it says."""
    cards = 0 if dry else len(used_mib())
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    yield command(dry, "no GPU to be seen, --device cuda", ["--device", "cuda"], hidden, 6)
    yield command(dry, "a GPU too many", ["--device", f"cuda:{cards}"], {}, 6)
    if cards:
        yield command(dry, "no GPU to be seen, --device auto", ["--device", "auto"], hidden, 0)
        yield command(dry, "--device auto", ["--device", "auto"], {}, 0)
    if dry or cards:
        device = "cpu" if dry else "cuda"
        yield command(dry, "--max-memory 1", ["--device", device, "--max-memory", "1"], {}, 0)
    if cards > 1:
        yield command(dry, "the second GPU", ["--device", "cuda:1"], {}, 0)
    elif not dry:
        yield {"left out": "two GPUs: this machine has one"}


def command(dry: bool, words: str, options: list[str], environment: dict[str, str], expected: int) -> Row:
    """One run of the command on the bundled case."""
    with tempfile.TemporaryDirectory() as folder, gpu_memory(dry) as memory:
        named = [f"--channel={name}={path}" for name, path in channels().items()]
        images = str(WEIGHTS.parent / "test" / "input" / "images")
        line = [sys.executable, "-m", "segsync", "predict", "-i", images, "-o", f"{folder}/mask.mha", "--task"]
        line += ["isles22", "--weights", str(WEIGHTS), *named, *options]
        began = time.monotonic()
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | environment)
        held = ", ".join(f"{card}: {mib:.0f}" for card, mib in memory().items() if mib > 50)
        return {
            "section": DEVICES,
            "": words,
            "exit code": done.returncode,
            "as expected": done.returncode == expected,
            "s": time.monotonic() - began,
            "GPU, MiB": held,
            "last line": (done.stderr.strip().splitlines() or [""])[-1].replace("|", "/")[:120],
        }


if __name__ == "__main__":
    serve({"provider": provider, "devices": devices})

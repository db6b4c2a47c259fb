"""Versions of everything that a result depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

import segsync

#: Distributions whose code touches the numbers; ONNX Runtime has one of two names.
DISTRIBUTIONS = ("numpy", "SimpleITK", "onnxruntime", "onnxruntime-gpu", "openvino", "pillow")


def versions() -> dict[str, str]:
    """Version by name: segsync, python, and those of DISTRIBUTIONS that are installed."""
    found = {"segsync": segsync.__version__, "python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

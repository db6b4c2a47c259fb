"""A child process in which compressed pixels are decoded: the decoders are in C, and a damaged stream may break them.

`decode` starts it with limits of memory and time; however it ends, the caller has an array or InputError.
"""

import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError

#: Bytes that a child takes before it decodes anything, and how often an image may lie in its memory.
BASE_BYTES, COPIES = 1 << 30, 3
#: Seconds of processor time that any image may take, and bytes of voxels that a second must decode.
BASE_SECONDS, BYTES_A_SECOND = 5, 1 << 20
#: Largest array, where the caller cannot tell what is promised.
MOST_BYTES = 1 << 29


def decode(kind: str, paths: Sequence[Path], promised: int, named: Path) -> npt.NDArray[np.generic]:
    """The pixels of files, one after another, as the child decodes them.

    kind: `dicom` or `tiff`. promised: bytes that the headers promise, by which memory and time are limited. named:
    what an error speaks of. Raises InputError where the child finds a fault, breaks, or reaches a limit.
    """
    seconds = BASE_SECONDS + promised // BYTES_A_SECOND
    limits = [str(BASE_BYTES + COPIES * promised), str(seconds)]
    names = "\0".join(str(path.absolute()) for path in paths).encode("utf-8", "surrogateescape")
    # One thread: those of a linear algebra library that nothing here uses would take the memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as decoded:
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, kind, *limits],
                input=names,
                stdout=decoded,
                stderr=subprocess.PIPE,
                env=environment,
                timeout=6 * seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"{named}: expected pixels that can be decoded, found no end after {6 * seconds} s; convert the image"
            ) from error
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1][:200] if lines and done.returncode == 1 else f"the decoder ended with {done.returncode}"
            raise InputError(f"{named}: expected pixels that can be decoded, found a fault ({reason}); convert it")
        decoded.seek(0)
        array: npt.NDArray[np.generic] = np.load(decoded, allow_pickle=False)
    return array


def _dicom(paths: Sequence[Path]) -> npt.NDArray[np.generic]:
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    planes = [pixel_array(dcmread(io.BytesIO(path.read_bytes()), force=True), raw=True) for path in paths]
    return np.concatenate([plane.reshape(-1, *plane.shape[-2:]) for plane in planes])


def _tiff(paths: Sequence[Path]) -> npt.NDArray[np.generic]:
    from PIL import Image, ImageSequence

    pages: list[npt.NDArray[np.generic]] = []
    with Image.open(io.BytesIO(paths[0].read_bytes()), formats=["TIFF"]) as image:
        for page in ImageSequence.Iterator(image):
            array = np.asarray(page)
            if array.ndim != 2 or page.mode == "P":
                raise ValueError(f"a page of colours ({page.mode}); give grey values")
            if pages and (array.shape, array.dtype) != (pages[0].shape, pages[0].dtype):
                raise ValueError(
                    f"pages of two kinds: {pages[0].shape} {pages[0].dtype} and {array.shape} {array.dtype}"
                )
            pages.append(array)
            if len(pages) * array.nbytes > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES >> 20} MiB of voxels")
    return np.stack(pages)


def main() -> None:
    """Decode the files that standard input names, within the limits given, and write the array to standard output."""
    kind, memory, seconds = sys.argv[1:]
    if sys.platform != "win32":  # which has no such limits; the caller's clock ends the child there
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    paths = [Path(name) for name in sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\0")]
    try:
        array = _dicom(paths) if kind == "dicom" else _tiff(paths)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    np.save(sys.stdout.buffer, np.ascontiguousarray(array), allow_pickle=False)


if __name__ == "__main__":
    main()

"""A child process in which compressed pixels are decoded: the decoders are in C, and a damaged stream may break them.

`decode` starts it with limits of memory and time; however it ends, the caller has an array or InputError.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError

#: What the child runs.
CHILD = Path(__file__).with_name("decoder_child.py")
#: Bytes that a child takes before it decodes anything, and how often an image may lie in its memory.
BASE_BYTES, COPIES = 1 << 30, 3
#: Seconds of processor time that any image may take, and bytes of voxels that a second must decode.
BASE_SECONDS, BYTES_A_SECOND = 5, 1 << 20
#: Seconds on the clock for a second of processor time, on a machine that is busy.
WAIT = 12
#: Largest array, where the caller cannot tell what is promised.
MOST_BYTES = 1 << 29


def decode(kind: str, paths: Sequence[Path], promised: int, named: Path) -> npt.NDArray[np.generic]:
    """The pixels of files, one after another, as the child decodes them.

    Args:
        kind: `dicom` or `tiff`.
        paths: The files.
        promised: Bytes that the headers promise, by which memory and time are limited.
        named: What an error speaks of.

    Returns:
        (number, Y, X).

    Raises:
        InputError: The child finds a fault, breaks, or reaches a limit.
    """
    seconds = BASE_SECONDS + promised // BYTES_A_SECOND
    limits = [str(BASE_BYTES + COPIES * promised), str(seconds), str(MOST_BYTES)]
    names = "\0".join(str(path.absolute()) for path in paths).encode("utf-8", "surrogateescape")
    # One thread: those of a linear algebra library that nothing here uses would take the memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as decoded:
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(CHILD), kind, *limits],
                input=names,
                stdout=decoded,
                stderr=subprocess.PIPE,
                env=environment,
                timeout=WAIT * seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"{named}: expected pixels that can be decoded, found no end after {WAIT * seconds} s; convert it"
            ) from error
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1][:200] if lines and done.returncode == 1 else f"the decoder ended with {done.returncode}"
            raise InputError(f"{named}: expected pixels that can be decoded, found a fault ({reason}); convert it")
        decoded.seek(0)
        array: npt.NDArray[np.generic] = np.load(decoded, allow_pickle=False)
    return array

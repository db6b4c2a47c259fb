"""The child process of `decoder`: reads the files that standard input names, within limits, and gives their pixels.

It is run by its path and imports nothing of the package, whose import takes longer than most decoding. Arguments:
`dicom` or `tiff`; bytes of memory, seconds of processor time, and the most bytes of voxels that it may give.
"""

import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


def dicom(paths: Sequence[Path]) -> npt.NDArray[np.generic]:
    """The stored values of slices, (number, Y, X)."""
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    planes = [pixel_array(dcmread(io.BytesIO(path.read_bytes()), force=True), raw=True) for path in paths]
    return np.concatenate([plane.reshape(-1, *plane.shape[-2:]) for plane in planes])


def tiff(path: Path, most_bytes: int) -> npt.NDArray[np.generic]:
    """The pages of a file, (number, Y, X); raises ValueError where they are colours, of two kinds, or too many."""
    from PIL import Image, ImageSequence

    pages: list[npt.NDArray[np.generic]] = []
    with Image.open(io.BytesIO(path.read_bytes()), formats=["TIFF"]) as image:
        for page in ImageSequence.Iterator(image):
            array = np.asarray(page)
            if array.ndim != 2 or page.mode == "P":
                raise ValueError(f"a page of colours ({page.mode}); give grey values")
            if pages and (array.shape, array.dtype) != (pages[0].shape, pages[0].dtype):
                raise ValueError(
                    f"pages of two kinds: {pages[0].shape} {pages[0].dtype} and {array.shape} {array.dtype}"
                )
            pages.append(array)
            if len(pages) * array.nbytes > most_bytes:
                raise ValueError(f"more than {most_bytes >> 20} MiB of voxels")
    return np.stack(pages)


def main() -> None:
    """Decode within the limits given and write the array to standard output, or end with a line and 1."""
    kind, memory, seconds, most_bytes = sys.argv[1], *map(int, sys.argv[2:])
    if sys.platform != "win32":  # which has no such limits; the caller's clock ends the child there
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    paths = [Path(name) for name in sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\0")]
    try:
        array = dicom(paths) if kind == "dicom" else tiff(paths[0], most_bytes)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    np.save(sys.stdout.buffer, np.ascontiguousarray(array), allow_pickle=False)


if __name__ == "__main__":
    main()

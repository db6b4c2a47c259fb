"""The bytes that a header promises, no more and no fewer, from files that are compressed or not."""

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from segsync.errors import InputError

#: No deflate stream is denser, nor any other of an image: a header that promises more voxels than this is wrong.
DEFLATE_LIMIT = 1032
#: What a gzip file begins with, whatever its name ends with.
GZIP_MAGIC = b"\x1f\x8b"
#: Bytes after the last voxel that are passed over; so many, or a slice of them, are another image than the header's.
SLACK = 1 << 20
#: Bytes that are read at a time: memory grows as voxels come, whatever the header promises.
BLOCK = 1 << 22


class Inflated(io.RawIOBase):
    """A zlib or gzip stream inside a file, inflated as it is read; its checksum must be right."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._inflate = file, zlib.decompressobj(zlib.MAX_WBITS | 32)

    def readable(self) -> bool:
        """As io asks."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as one step of inflating goes; 0 at the stream's end."""
        while not self._inflate.eof:
            block = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            if not block:
                raise EOFError("the compressed stream ends before its end is marked")
            if found := self._inflate.decompress(block, len(buffer)):
                buffer[: len(found)] = found
                return len(found)
        return 0


def opened(file: BinaryIO, encoding: str) -> tuple[BinaryIO, int]:
    """The stream from here on as its encoding (`raw`, `gzip`, `zlib`) has it, and how dense it may be."""
    if encoding == "raw":
        return file, 1
    inflated = gzip.GzipFile(fileobj=file) if encoding == "gzip" else io.BufferedReader(Inflated(file))
    return cast(BinaryIO, inflated), DEFLATE_LIMIT


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed, by its content."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def read_voxels(
    path: Path, stream: BinaryIO, dtype: np.dtype[np.generic], shape: Sequence[int], *, density: int
) -> npt.NDArray[np.generic]:
    """The array from here on in a stream, in the machine's byte order.

    Args:
        path: For messages.
        stream: Behind the header.
        dtype: Of the voxels as stored.
        shape: Of the array.
        density: How many bytes of voxels a byte of the file may hold.

    Returns:
        The array.

    Raises:
        InputError: Bytes are missing, too many follow, or a checksum is wrong.
        MemoryError: Memory has ended.
    """
    needed, size = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if needed > size * density:
        raise _cut(path, needed, size)
    buffer = np.empty(needed, dtype=np.uint8)
    view, done = memoryview(cast(Any, buffer)), 0
    try:
        while done < needed and (count := stream.readinto(view[done : done + BLOCK])):  # type: ignore[attr-defined]
            done += count
        if done < needed:
            raise _cut(path, needed, done)
        slack = max(1, min(SLACK, math.prod(shape[-2:]) * dtype.itemsize))
        if len(stream.read(slack)) == slack:
            raise InputError(
                f"{path}: expected the {needed} bytes of voxels that its header promises, found more; "
                "the header is not this image's: convert it again"
            )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: expected whole compressed voxels, found {error}; copy it again") from error
    array = buffer.view(dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def read_text(path: Path, file: BinaryIO, dtype: np.dtype[np.generic], shape: Sequence[int]) -> npt.NDArray[np.generic]:
    """The array whose numbers stand as text from here on; raises InputError where their number is another."""
    words = file.read().split()
    needed = math.prod(shape)
    if len(words) != needed:
        raise InputError(
            f"{path}: expected the {needed} voxels that its header promises, found {len(words)}; copy it again"
        )
    return np.array(words, dtype=np.float64).astype(dtype.newbyteorder("=")).reshape(shape)


def _cut(path: Path, needed: int, found: int) -> InputError:
    return InputError(
        f"{path}: expected the {needed} bytes of voxels that its header promises, found {found}; "
        "the file is cut: copy it again"
    )

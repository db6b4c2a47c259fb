"""Damaged image files of every format, read in a process that is watched: `make fuzz`.

Each mutant must end as an image or as one line: no crash, no hang, no swelling, no exception without a name.
"""

import argparse
import gzip
import itertools
import json
import select
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from builders import SKEWED, tissue_of, write_image
from dicom_files import classic, compressed, enhanced, save

#: Seconds and bytes that no mutant may take.
SECONDS, BYTES = 5.0, 1 << 30
#: Formats whose pixels a child process decodes.
COSTLY = ("a.tif", "lzw.tif", "dicom RLE")
#: What damaged or hostile fields hold.
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000, 0x7FC00000]
WORDS = [b"-1", b"0", b"99999999999", b"1e308", b"nan", b"inf", b"A" * 2000, b"%s%n", b"../../x", b"\xff\xfe", b""]

#: Reads the paths that come on standard input, one a line, and says how each ended.
WORKER = """
import json, resource, sys
from pathlib import Path
import SimpleITK
from segsync.errors import SegsyncError
from segsync.images import read
from segsync.memory import peak_bytes
def spent():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
for line in sys.stdin:
    began = spent()
    try:
        volume = read(Path(json.loads(line)))
        assert volume.array.shape == volume.grid.size_zyx
        end = "read"
    except SegsyncError as error:
        end = "line" if "\\n" not in str(error) and len(str(error)) < 2000 else f"long line {str(error)[:80]!r}"
    except BaseException as error:
        end = f"{type(error).__name__}: {error}"[:200]
    peak = max(peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
    print(json.dumps([end, spent() - began, peak]), flush=True)
"""


@dataclass
class Counts:
    """How the mutants of one format ended."""

    mutants: int = 0
    read: int = 0
    line: int = 0
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0


def seeds(folder: Path) -> dict[str, Path]:
    """A whole file of every format (of DICOM a folder), by the format's name."""
    array = tissue_of(SKEWED, 100).astype(np.int16)
    found = {
        name: write_image(folder / name, array, SKEWED, compress=packed)
        for name, packed in (("plain.mha", False), ("packed.mha", True), ("a.nii", False), ("a.nii.gz", True))
    }
    found |= {
        name: write_image(folder / name, array, SKEWED, compress="gz" in name) for name in ("raw.nrrd", "gz.nrrd")
    }
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint16)), str(folder / "a.tif"), useCompression=False)
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint16)), str(folder / "lzw.tif"), useCompression=True)
    found |= {name: folder / name for name in ("a.tif", "lzw.tif")}
    planes, places = np.abs(array).astype(np.uint16), [3.0 * n for n in range(len(array))]
    scaled = classic(planes, places, slopes=[1.0] * len(array), intercepts=[-1024.0] * len(array))
    found["dicom"] = save(folder / "dicom", scaled)
    found["dicom enhanced"] = save(folder / "enhanced", [enhanced(planes, places, [0.0] * len(planes))])
    found["dicom RLE"] = save(folder / "rle", [compressed(one) for one in classic(planes, places)])
    return found


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bytes, numbers, words, cuts, insertions; mostly where headers are."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            break
        reach = len(data) if rng.random() < 0.3 else min(len(data), 700)
        place = int(rng.integers(reach))
        kind = int(rng.integers(8))
        if kind <= 1:
            data[place] = int(rng.integers(256))
        elif kind <= 3:
            number = NUMBERS[int(rng.integers(len(NUMBERS)))]
            layout = "<>"[int(rng.integers(2))] + "HI"[int(rng.integers(2))]
            packed = struct.pack(layout, number & (0xFFFF if layout[1] == "H" else 0xFFFFFFFF))
            data[place : place + len(packed)] = packed
        elif kind == 4:
            words = bytes(data[:reach]).split(b" ")
            words[int(rng.integers(len(words)))] = WORDS[int(rng.integers(len(WORDS)))]
            data[:reach] = b" ".join(words)
        elif kind == 5:
            del data[place : place + int(rng.integers(1, 9))]
        elif kind == 6:
            data[place:place] = rng.bytes(int(rng.integers(1, 9)))
        else:
            del data[int(rng.integers(len(data))) :]
    return bytes(data)


def mutant(seed: Path, folder: Path, rng: np.random.Generator) -> Path:
    """A damaged copy of a seed in an empty folder; of a DICOM series one file is damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    if seed.is_dir():
        shutil.copytree(seed, folder)
        files = sorted(folder.iterdir())
        path, found = files[int(rng.integers(len(files)))], folder
        path.write_bytes(path.read_bytes()[:128] + mutated(path.read_bytes()[128:], rng))
        return found
    folder.mkdir()
    path, content = folder / seed.name, seed.read_bytes()
    if seed.name.endswith(".gz") and rng.random() < 0.7:
        path.write_bytes(gzip.compress(mutated(gzip.decompress(content), rng), 1))
    else:
        path.write_bytes(mutated(content, rng))
    return path


class Watched:
    """A process that reads what it is told; where it dies or hangs it is started again."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def read(self, path: Path, wall_s: float) -> tuple[str, float, int]:
        """How reading a file ended, the processor seconds, and the most memory that was held so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], wall_s)
        line = self._process.stdout.readline() if ready else b""
        if line:
            end, seconds, peak = json.loads(line)
            return str(end), float(seconds), int(peak)
        self._process.kill()
        code = self._process.wait()
        self._start()
        return ("hang" if not ready else f"crash {code}"), wall_s if not ready else 0.0, 0

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def fuzz(seeds_of: dict[str, Path], folder: Path, count: int, seed: int, wall_s: float = 60.0) -> dict[str, Counts]:
    """Read `count` mutants, of each format as many; the same seed gives the same mutants."""
    counts = {name: Counts() for name in seeds_of}
    watched = Watched()
    for number, (name, whole) in enumerate(_turns(seeds_of, count)):
        path = mutant(whole, folder / "mutant", np.random.default_rng([seed, number]))
        end, seconds, peak = watched.read(path, wall_s)
        of = counts[name]
        of.mutants += 1
        of.read += end == "read"
        of.line += end == "line"
        of.slowest, of.peak = max(of.slowest, seconds), max(of.peak, peak)
        if end not in ("read", "line") or seconds > SECONDS or peak > BYTES:
            of.faults.append(f"mutant {number} of seed {seed} ({name}): {end}, {seconds:.1f} s, {peak >> 20} MiB")
    watched.close()
    return counts


def _turns(seeds_of: dict[str, Path], count: int) -> Iterator[tuple[str, Path]]:
    """Formats in turn; those that start a child process for every file, every fifth time."""
    given = 0
    for turn in itertools.count():
        for name, whole in seeds_of.items():
            if name in COSTLY and turn % 5:
                continue
            if given == count:
                return
            given += 1
            yield name, whole


def main() -> None:
    """Print a table of how the mutants ended; exit with 1 where one did what none may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = fuzz(seeds(folder / "seeds"), folder, arguments.mutants, arguments.seed)
    rows = [["format", "mutants", "read", "one line", "faults", "slowest, s", "peak, MiB"], ["---"] * 7]
    for name, of in found.items():
        numbers = (of.mutants, of.read, of.line, len(of.faults), f"{of.slowest:.2f}", of.peak >> 20)
        rows.append([name, *map(str, numbers)])
    totals = ([getattr(of, key) for of in found.values()] for key in ("mutants", "read", "line"))
    rows.append(
        ["all", *(str(sum(total)) for total in totals), str(sum(len(of.faults) for of in found.values())), "", ""]
    )
    write = sys.stdout.write
    write("".join(f"| {' | '.join(row)} |\n" for row in rows))
    faults = [line for of in found.values() for line in of.faults]
    write("".join(f"{line}\n" for line in faults))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

"""Damaged image files of every format, read in a process that is watched: `make fuzz`.

Each mutant must end as an image or as one line: no crash, no hang, no swelling, no exception without a name. How each
ended is kept in a record as it ends; a run that was stopped goes on behind the last one.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.data import get_testdata_file

from builders import SKEWED, tissue_of, write_image
from dicom_files import classic, compressed, deflated, enhanced, save

#: Seconds and bytes that no mutant may take.
SECONDS, BYTES = 5.0, 1 << 30
#: Formats whose pixels a child process decodes.
COSTLY = ("a.tif", "lzw.tif", "dicom RLE", "dicom JPEG-LS", "dicom JPEG 2000")
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
from segsync.memory import peak_bytes, reset_peak
def spent():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
children = 0.0
for line in sys.stdin:
    reset_peak()
    began = spent()
    try:
        volume = read(Path(json.loads(line)))
        assert volume.array.shape == volume.grid.size_zyx
        end = "read"
    except SegsyncError as error:
        end = "line" if "\\n" not in str(error) and len(str(error)) < 2000 else f"long line {str(error)[:80]!r}"
    except BaseException as error:
        end = f"{type(error).__name__}: {error}"[:200]
    child, peak = resource.getrusage(resource.RUSAGE_CHILDREN), peak_bytes()
    if child.ru_utime + child.ru_stime > children:  # the largest that any had, which one that ran now may have been
        children, peak = child.ru_utime + child.ru_stime, max(peak, child.ru_maxrss << 10)
    print(json.dumps([end, spent() - began, peak]), flush=True)
"""


@dataclass(frozen=True)
class Ending:
    """How one mutant ended: `read`, `line`, or what none may; processor seconds, and bytes held."""

    number: int
    format: str
    end: str
    seconds: float
    peak: int

    @property
    def faulty(self) -> bool:
        """Whether it did what none may."""
        return self.end not in ("read", "line") or self.seconds > SECONDS or self.peak > BYTES


def seeds(folder: Path) -> dict[str, Path]:
    """A whole image of every format, a file or a folder of files, by the format's name."""
    array = tissue_of(SKEWED, 100).astype(np.int16)
    found = {
        name: write_image(folder / name, array, SKEWED, compress=packed)
        for name, packed in (("plain.mha", False), ("packed.mha", True), ("a.nii", False), ("a.nii.gz", True))
    }
    found |= {
        name: write_image(folder / name, array, SKEWED, compress="gz" in name) for name in ("raw.nrrd", "gz.nrrd")
    }
    found["a.mhd"] = folder / "mhd"
    found["a.mhd"].mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "mhd" / "a.mhd"), useCompression=True)
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint16)), str(folder / "a.tif"), useCompression=False)
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint16)), str(folder / "lzw.tif"), useCompression=True)
    found |= {name: folder / name for name in ("a.tif", "lzw.tif")}
    planes, places = np.abs(array).astype(np.uint16), [3.0 * n for n in range(len(array))]
    scaled = classic(planes, places, slopes=[1.0] * len(array), intercepts=[-1024.0] * len(array))
    found["dicom"] = save(folder / "dicom", scaled)
    found["dicom enhanced"] = save(folder / "enhanced", [enhanced(planes, places, [0.0] * len(planes))])
    found["dicom deflated"] = save(folder / "deflated", [deflated(one) for one in classic(planes, places)])
    found["dicom RLE"] = save(folder / "rle", [compressed(one) for one in classic(planes, places)])
    for name, file in (("JPEG-LS", "MR_small_jpeg_ls_lossless.dcm"), ("JPEG 2000", "MR_small_jp2klossless.dcm")):
        (folder / name).mkdir()
        shutil.copy(str(get_testdata_file(file)), folder / name / "0.dcm")
        found[f"dicom {name}"] = folder / name
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
    """A damaged copy of a seed in an empty folder; of several files one is damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    if seed.is_dir():
        shutil.copytree(seed, folder)
        files = sorted(folder.iterdir())
        path = files[int(rng.integers(len(files)))]
        kept = 128 if path.suffix == ".dcm" else 0  # a preamble, of which nothing is read
        path.write_bytes(path.read_bytes()[:kept] + mutated(path.read_bytes()[kept:], rng))
        return next(folder.glob("*.mhd"), folder)
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


def fuzz(
    seeds_of: dict[str, Path], folder: Path, count: int, seed: int, record: Path | None = None, wall_s: float = 600.0
) -> list[Ending]:
    """Read `count` mutants, of each format as many; the same seed gives the same mutants.

    record: takes a line for each as it ends; those that are there already are not read again.
    """
    lines = record.read_text().splitlines() if record is not None and record.is_file() else []
    endings = [Ending(**json.loads(line)) for line in lines][:count]
    watched = Watched()
    for number, (name, whole) in enumerate(itertools.islice(_turns(seeds_of), count)):
        if number < len(endings):
            continue
        path = mutant(whole, folder / "mutant", np.random.default_rng([seed, number]))
        endings.append(Ending(number, name, *watched.read(path, wall_s)))
        if record is not None:
            with record.open("a") as file:
                file.write(json.dumps(asdict(endings[-1])) + "\n")
    watched.close()
    return endings


def _turns(seeds_of: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Formats in turn; those that start a child process for every file, every fifth time."""
    for turn in itertools.count():
        yield from ((name, whole) for name, whole in seeds_of.items() if name not in COSTLY or turn % 5 == 0)


def table(endings: Sequence[Ending]) -> str:
    """The endings of each format, counted, as Markdown; below it those that none may have."""
    of_format: dict[str, list[Ending]] = {}
    for one in endings:
        of_format.setdefault(one.format, []).append(one)
    rows = [["format", "mutants", "read", "one line", "faults", "slowest, s", "largest, MiB"], ["---"] * 7]
    for name, those in (*of_format.items(), ("all", list(endings))):
        ends = [one.end for one in those]
        counts = (len(those), ends.count("read"), ends.count("line"), sum(one.faulty for one in those))
        slowest, largest = max(one.seconds for one in those), max(one.peak for one in those)
        rows.append([name, *map(str, counts), f"{slowest:.2f}", str(largest >> 20)])
    faults = [str(one) for one in endings if one.faulty]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), *faults, ""])


def main() -> None:
    """Print a table of how the mutants ended; exit with 1 where one did what none may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path("build/fuzz.jsonl"), help="begins anew where there is none")
    arguments = parser.parse_args()
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        endings = fuzz(seeds(folder / "seeds"), folder, arguments.mutants, arguments.seed, arguments.record)
    sys.stdout.write(table(endings))
    sys.exit(any(one.faulty for one in endings))


if __name__ == "__main__":
    main()

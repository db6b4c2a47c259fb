"""A fixed number of damaged files of every format; `make fuzz` reads 10,000."""

from pathlib import Path

from fuzz_readers import fuzz, seeds


def test_mutants_of_every_format_end_as_an_image_or_one_line(tmp_path: Path) -> None:
    counts = fuzz(seeds(tmp_path / "seeds"), tmp_path, 60, seed=1)
    assert [line for of in counts.values() for line in of.faults] == []
    assert sum(of.mutants for of in counts.values()) == 60
    assert all(of.mutants for of in counts.values())

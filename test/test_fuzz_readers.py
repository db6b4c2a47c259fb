"""A fixed number of damaged files of every format; `make fuzz` reads 10,000."""

from pathlib import Path

from fuzz_readers import fuzz, seeds


def test_mutants_of_every_format_end_as_an_image_or_one_line(tmp_path: Path) -> None:
    whole = seeds(tmp_path / "seeds")
    endings = fuzz(whole, tmp_path, 60, seed=1)
    assert [one for one in endings if one.faulty] == []
    assert len(endings) == 60
    assert {one.format for one in endings} == set(whole)


def test_a_run_that_was_stopped_goes_on_behind_the_last_mutant(tmp_path: Path) -> None:
    whole = {name: path for name, path in seeds(tmp_path / "seeds").items() if name == "plain.mha"}
    record = tmp_path / "record.jsonl"
    first = fuzz(whole, tmp_path, 2, seed=1, record=record)
    both = fuzz(whole, tmp_path, 4, seed=1, record=record)
    assert both[:2] == first
    assert [one.number for one in both] == [0, 1, 2, 3]
    assert fuzz(whole, tmp_path, 4, seed=1, record=record) == both

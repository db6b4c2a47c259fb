"""Files and folders appear whole or not at all, whatever happens while they are written."""

import errno
from pathlib import Path

import pytest

from segsync.atomic import part_of, whole_file, whole_folder, why_not, write_texts
from segsync.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def broken_off(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as part:
        broken_off(part)
    assert (names(tmp_path), path.read_text()) == (["mask.json"], "old")


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with whole_file(path, durable=durable) as part:
            part.write_text(text)
    assert (names(path.parent), path.read_text()) == (["a.txt"], "two")


def test_two_writers_never_meet(tmp_path: Path) -> None:
    """Both may have the same process number, in two containers that share a folder."""
    path = tmp_path / "a.nii.gz"
    assert len({part_of(path, ".nii.gz") for _ in range(100)}) == 100
    with whole_file(path) as one:
        one.write_text("first")
        with whole_file(path) as other:
            other.write_text("second")
    assert (names(tmp_path), path.read_text()) == (["a.nii.gz"], "first")


@pytest.mark.parametrize(("replace", "kept"), [(True, "new"), (False, "old")])
def test_a_folder_is_replaced_or_stays_as_it_was(tmp_path: Path, replace: bool, kept: str) -> None:
    folder = tmp_path / "case"
    for text in ("old", "new"):
        with whole_folder(folder, replace=replace) as part:
            (part / text).touch()
    assert (names(tmp_path), names(folder)) == (["case"], [kept])


def test_an_error_while_writing_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    with whole_folder(folder, replace=True) as part:
        (part / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(folder, replace=True) as part:
        broken_off(part / "half")
    assert (names(tmp_path), names(folder)) == (["weights"], ["old"])


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    with whole_folder(folder, replace=True) as part:
        (part / "old").touch()

    def refused(self: Path, target: Path) -> Path:
        if target == folder and (self / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="Input/output error"), whole_folder(folder, replace=True) as part:
        (part / "new").touch()
    assert (names(tmp_path), names(folder)) == (["weights"], ["old"])


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file: expected to make the folder, found File exists; choose another"):
        write_texts({"a.csv": ""}, tmp_path / "file")
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(OutputError, match=r"a\.csv: expected to write it, found Is a directory; choose another"):
        write_texts({"a.csv": ""}, tmp_path)
    assert names(tmp_path) == ["a.csv", "file"]
    full = why_not(tmp_path / "not" / "there", OSError(errno.ENOSPC, "No space left on device"))
    assert full.startswith("a full disk (")

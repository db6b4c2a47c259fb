"""The data sets in words: a table of all, and the layout, labels and licence of one."""

from collections.abc import Iterator

from rich.table import Table

from segsync.errors import InputError
from segsync_train.data.adapters import DATASETS
from segsync_train.data.layout import DataSet, Patterns

FORMATS = {
    "nnunet": "nnU-Net's format: imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, dataset.json",
    "bids": "BIDS: sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz, label maps (_mask, _dseg, _msk) anywhere",
}


def catalog() -> Table:
    """Every format and data set, with its channels and licence."""
    table = Table("name", "data set", "channels", "licence")
    for name, title in FORMATS.items():
        table.add_row(name, title, "any", "")
    for name, dataset in sorted(DATASETS.items()):
        table.add_row(name, dataset.title, " ".join(dataset.channels), dataset.licence)
    return table


def description(name: str) -> str:
    """One data set: where it comes from, how its folder is laid out, its labels. Raises InputError for another name."""
    if name in FORMATS:
        return f"{FORMATS[name]}\n"
    if name not in DATASETS:
        raise InputError(f"expected a data set among {', '.join([*FORMATS, *sorted(DATASETS)])}, found {name!r}")
    return "".join(f"{line}\n" for line in _lines(DATASETS[name]))


def _lines(dataset: DataSet) -> Iterator[str]:
    yield dataset.title
    yield f"from     {dataset.url}"
    yield f"licence  {dataset.licence}"
    for channel, patterns in dataset.channels.items():
        yield f"image    {channel}: {_words(patterns)}{' (some cases lack it)' if channel in dataset.optional else ''}"
    if dataset.label:
        yield f"label    {_words(dataset.label)}"
    for structure, patterns in dataset.masks.items():
        yield f"mask     {structure}: {_words(patterns)}"
    for value, label in dataset.labels.items():
        stored = [str(old) for old, new in dataset.values.items() if new == value]
        few = len(stored) in (1, 2)
        yield f"value    {value}: {label}{f' (in the files {chr(44).join(stored)})' if few else ''}"
    if dataset.note:
        yield f"note     {dataset.note}"


def _words(patterns: Patterns) -> str:
    return " or ".join(patterns)

"""A data set as a declaration: where its files lie and what they hold; and the cases of a folder, found by it.

A pattern is a path below the set's folder, without the ending of an image. `{case}` is a part of one name, the same
wherever it stands; `*` is any part of one name; `**/` any number of folders, also 0. Capitals do not matter. Several
placeholders (`{case}`, `{visit}`) are the case's name together.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segsync.errors import InputError
from segsync.images import stem_of, suffix_of

#: Alternatives: a file belongs to the first pattern that fits, and of a case's files that of the earliest counts.
Patterns = tuple[str, ...]

TOKENS = re.compile(r"(\*\*/|\*|\{\w+\})")
BIDS_SUBJECT = re.compile(r"sub-[^_]+", re.IGNORECASE)


@dataclass(frozen=True)
class CaseFiles:
    """One case's files: an image for each channel it has, and its labels where it has them.

    Attributes:
        name: Of the case.
        images: By channel.
        label: A label map.
        masks: Instead of it, binary masks by the name of the label; several of one label are united.
        values: What the label map's values are called here; empty where they are taken as they are.
        held_back: Whether its labels are not public, as those of a challenge's test cases.
        subject: Whose images these are, where the layout says so.
        site: Where they were taken, likewise.
        clinical: Files that say more of the patient (`segsync.clinical.read_clinical`).
    """

    name: str
    images: Mapping[str, Path]
    label: Path | None = None
    masks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    values: Mapping[int, int] = field(default_factory=dict)
    held_back: bool = False
    subject: str | None = None
    site: str | None = None
    clinical: tuple[Path, ...] = ()

    @property
    def subject_name(self) -> str:
        """The subject: of a BIDS name (`sub-01_ses-1`) its first part, else a case is a subject of its own."""
        found = BIDS_SUBJECT.match(self.name)
        return self.subject or (found[0] if found else self.name)

    @property
    def label_files(self) -> tuple[Path, ...]:
        """Every file that the labels are read from; none for a case without labels."""
        masks = tuple(path for paths in self.masks.values() for path in paths)
        return masks if self.label is None else (self.label, *masks)


@dataclass(frozen=True)
class DataSet:
    """One public data set in its official layout; a new one is one more file in `segsync_train.data.adapters`.

    Attributes:
        name: In settings.
        title: Its own.
        url: Where it is had.
        licence: Of images and labels.
        channels: Patterns of each image, the one that the labels lie on first.
        labels: Numbers and names used in settings.
        label: Patterns of the label map.
        masks: Or patterns of binary masks by the label's name; a placeholder in the name is filled in from the file's.
        values: Values in the files as these numbers, where they differ.
        optional: Channels that some cases lack.
        unlabelled: A folder whose name holds one of these words keeps cases without labels.
        subject: Regular expression whose group is a case's subject, searched in its first file's path below the folder,
            where names are not those of BIDS.
        site: The same of its site.
        clinical: Patterns of JSON files and tables of a patient, known when the images were taken.
        task: The challenge whose data these are, where that has another name.
        note: What else a person should know.
    """

    name: str
    title: str
    url: str
    licence: str
    channels: Mapping[str, Patterns]
    labels: Mapping[int, str]
    label: Patterns = ()
    masks: Mapping[str, Patterns] = field(default_factory=dict)
    values: Mapping[int, int] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ("test", "val")
    subject: str | None = None
    site: str | None = None
    clinical: Patterns = ()
    task: str | None = None
    note: str = ""

    @property
    def reference(self) -> str:
        """The channel whose grid the labels have."""
        return next(iter(self.channels))

    def cases(self, folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
        """The cases below a folder that have an image of at least one of the channels, by name.

        Args:
            folder: The data set's.
            channels: Of the model.

        Returns:
            The cases.

        Raises:
            InputError: The set has not such a channel, or two files claim to be the same image.
        """
        return [case for case in self.everything(folder, channels) if case.images]

    def everything(self, folder: Path, channels: Sequence[str]) -> list[CaseFiles]:
        """The same, with the cases that have labels and no image."""
        for name in channels:
            if name not in self.channels:
                raise InputError(
                    f"data.layout {self.name}: expected channels among {', '.join(self.channels)}, found {name!r}; "
                    "correct the names of the channels"
                )
        files = [(below(folder, path), path) for path in image_files(folder)]
        images: dict[str, dict[str, Path]] = defaultdict(dict)
        for channel in channels:
            for name, path in _chosen(self.channels[channel], files, f"{channel} image").items():
                images[name][channel] = path
        labels = _chosen(self.label, files, "label map")
        masks: dict[str, dict[str, tuple[Path, ...]]] = defaultdict(dict)
        for structure, patterns in self.masks.items():
            for _, found, path in _matching(patterns, files):
                name = structure.format(**found)
                own = {key: value for key, value in found.items() if f"{{{key}}}" not in structure}
                by_label = masks[case_name(own)]
                by_label[name] = (*by_label.get(name, ()), path)
        clinical: dict[str, tuple[Path, ...]] = defaultdict(tuple)
        for _, found, path in _matching(self.clinical, list(_tables(folder)) if self.clinical else ()):
            clinical[case_name(found)] += (path,)
        cases = [
            CaseFiles(name, images.get(name, {}), labels.get(name), masks.get(name, {}), self.values)
            for name in sorted({*images, *labels, *masks})
        ]
        return [
            replace(
                case,
                clinical=clinical.get(case.name, ()),
                held_back=self._held_back(case, folder),
                subject=_searched(self.subject, case, folder),
                site=_searched(self.site, case, folder),
            )
            for case in cases
        ]

    def _held_back(self, case: CaseFiles, folder: Path) -> bool:
        """Whether the case has no labels and lies where the set keeps such cases."""
        parents = {part for path in case.images.values() for part in below(folder, path).lower().split("/")[:-1]}
        return not case.label_files and any(word in parent for word in self.unlabelled for parent in parents)


def _searched(pattern: str | None, case: CaseFiles, folder: Path) -> str | None:
    """What the first group of a regular expression finds in the path of the case's first file."""
    path = (*case.images.values(), *case.label_files)[0]
    found = re.search(pattern, below(folder, path), re.IGNORECASE) if pattern else None
    return None if found is None else next(group for group in found.groups() if group)


def image_files(folder: Path) -> Iterator[Path]:
    """Every image below a folder, in order; hidden files and those that archives leave behind are passed over."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith(".") and suffix_of(Path(name)):
                yield Path(parent) / name


def _tables(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every JSON file and table below a folder by its path without the ending, in order."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".csv", ".tsv", ".json") and not path.name.startswith("."):
            yield path.with_suffix("").relative_to(folder).as_posix(), path


def below(folder: Path, path: Path) -> str:
    """A file's path below the folder with `/` between names, without the image's ending."""
    return (path.parent / stem_of(path)).relative_to(folder).as_posix()


def case_name(found: Mapping[str, str]) -> str:
    """What the placeholders of a pattern name together."""
    return "-".join(found.values())


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression whose groups are its placeholders."""
    seen: set[str] = set()
    parts = []
    for token in TOKENS.split(pattern):
        if token == "**/":
            parts.append("(?:.*/)?")
        elif token == "*":
            parts.append("[^/]*")
        elif token.startswith("{"):
            name = token[1:-1]
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)")
            seen.add(name)
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts), re.IGNORECASE)


def _chosen(patterns: Patterns, files: Sequence[tuple[str, Path]], what: str) -> dict[str, Path]:
    """The one file of each case, by name; raises InputError where two fit the same pattern."""
    chosen: dict[str, tuple[int, Path]] = {}
    for place, found, path in sorted(_matching(patterns, files), key=lambda match: match[0]):
        case = case_name(found)
        earliest, first = chosen.setdefault(case, (place, path))
        if place == earliest and path != first:
            raise InputError(f"{path}: expected one {what} for the case {case}, found {first} as well; take one away")
    return {case: path for case, (_, path) in chosen.items()}


def _matching(patterns: Patterns, files: Sequence[tuple[str, Path]]) -> Iterator[tuple[int, dict[str, str], Path]]:
    """Each file that fits a pattern: the pattern's place, and what the placeholders are in the file's name."""
    expressions = [compiled(pattern) for pattern in patterns]
    for relative, path in files:
        matches = ((place, expression.fullmatch(relative)) for place, expression in enumerate(expressions))
        fitting = next(((place, found) for place, found in matches if found), None)
        if fitting is not None:
            yield fitting[0], fitting[1].groupdict(), path

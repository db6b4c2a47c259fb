"""What each task reads and writes on Grand Challenge and elsewhere: sockets, channels, outputs. Nothing about a model.

A new task of the platform is one more `Task` in `TASKS`; weights for a task of one's own need none (`own_task`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from segsync.errors import UsageError


@dataclass(frozen=True)
class Channel:
    """One image that a task reads; its place in the task is its number in nnU-Net's names (`_0000`).

    Attributes:
        name: Of the channel.
        sockets: Folder names below `images/` (Grand Challenge slugs), the preferred first.
        suffixes: What a file's name ends with elsewhere (BIDS), lower case.
        required: Whether a case without it is refused.
    """

    name: str
    sockets: tuple[str, ...]
    suffixes: tuple[str, ...]
    required: bool = True

    @property
    def words(self) -> frozenset[str]:
        """Words for the channel in names of files and folders, lower case."""
        return frozenset((*self.suffixes, *(socket.lower() for socket in self.sockets)))


class Content(Enum):
    """What an output image holds."""

    MASK = "mask"
    PROBABILITY = "probability"


@dataclass(frozen=True)
class Output:
    """One image that a task writes below `/output/images/`. filename without ending; None takes the reference's."""

    socket: str
    content: Content
    filename: str | None = "output"


@dataclass(frozen=True)
class Task:
    """One task: its images in, its images out, on the grid of the reference channel."""

    name: str
    title: str
    channels: tuple[Channel, ...]
    reference: str
    outputs: tuple[Output, ...]
    #: JSON inputs, as the endings of file names below `/input`; they are recorded in the report.
    json_inputs: tuple[str, ...] = ()
    #: JSON inputs without which a run is another task's.
    distinguishing_json: tuple[str, ...] = ()
    #: Further image sockets that the platform may fill and the task does not need.
    unread_sockets: tuple[str, ...] = ()
    #: Whether `/output/results.json` repeats inputs and outputs (ISLES'22).
    results_json: bool = False
    #: Name of a file below `/output` that says `true` or `false`: whether there is any lesion.
    presence_json: str | None = None

    def channel(self, name: str) -> Channel:
        """The channel of this name; raises UsageError for a name that the task does not know."""
        for channel in self.channels:
            if channel.name == name:
                return channel
        names = ", ".join(channel.name for channel in self.channels)
        raise UsageError(f"expected a channel of the task {self.name} ({names}), found {name!r}")


_T1 = Channel("t1", ("t1-brain-mri",), ("t1", "t1w"))

TASKS = {
    task.name: task
    for task in (
        Task(
            name="isles22",
            title="Acute and subacute ischaemic stroke in DWI, ADC and FLAIR (ISLES'22)",
            channels=(
                Channel("dwi", ("dwi-brain-mri",), ("dwi", "trace", "tracew", "isodwi", "b1000")),
                Channel("adc", ("adc-brain-mri",), ("adc",)),
                Channel("flair", ("flair-brain-mri",), ("flair", "t2flair"), required=False),
            ),
            reference="dwi",
            outputs=(Output("stroke-lesion-segmentation", Content.MASK, filename=None),),
            json_inputs=(
                "dwi-mri-acquisition-parameters.json",
                "adc-mri-parameters.json",
                "flair-mri-acquisition-parameters.json",
            ),
            results_json=True,
        ),
        Task(
            name="isles24",
            title="Final infarct from acute CT, CT angiography and perfusion maps (ISLES'24)",
            channels=(
                Channel("ncct", ("non-contrast-ct",), ("ncct", "ct")),
                Channel("cta", ("preprocessed-CT-angiography", "ct-angiography"), ("cta",)),
                Channel("tmax", ("preprocessed-tmax-map", "tmax-parameter-map"), ("tmax",)),
                Channel("cbf", ("preprocessed-cbf-map", "cbf-parameter-map"), ("cbf",)),
                Channel("cbv", ("preprocessed-cbv-map", "cbv-parameter-map"), ("cbv",)),
                Channel("mtt", ("preprocessed-mtt-map", "mtt-parameter-map"), ("mtt",)),
            ),
            reference="ncct",
            outputs=(Output("stroke-lesion-segmentation", Content.MASK),),
            json_inputs=("acute-stroke-clinical-information.json", "acute_stroke_clinical_information.json"),
            unread_sockets=("perfusion-ct", "preprocessed-perfusion-ct"),
        ),
        Task(
            name="aims-tbi",
            title="Lesions of moderate to severe traumatic brain injury in T1 (AIMS-TBI)",
            channels=(_T1,),
            reference="t1",
            outputs=(Output("tbi-segmentation", Content.MASK),),
            presence_json="brain-lesion-presence.json",
        ),
        Task(
            name="isles26",
            title="Chronic and subacute stroke lesions in T1 (ISLES'26)",
            channels=(_T1,),
            reference="t1",
            outputs=(
                Output("stroke-lesion-segmentation", Content.MASK),
                Output("lesion-probability-map", Content.PROBABILITY),
            ),
            json_inputs=("stroke-metadata.json",),
            distinguishing_json=("stroke-metadata.json",),
        ),
    )
}


def words_of(channel: str) -> tuple[str, ...]:
    """What names of files call a channel of this name, lower case: itself, and what a challenge's task calls it."""
    known = {own.name: own.suffixes for task in TASKS.values() for own in task.channels}
    return tuple(dict.fromkeys((channel.lower(), *known.get(channel.lower(), ()))))


def own_task(name: str, title: str, channels: Mapping[str, bool], reference: str) -> Task:
    """A task that is no challenge's: it reads the channels (name, whether required) that weights were trained on.

    A file is told by its channel's name (`case_t1.nii.gz`, a folder `t1`), by the words that a challenge's task has for
    it (`T1w`), or by its number (`case_0000.nii.gz`).
    """
    read = tuple(Channel(channel, (), words_of(channel), required) for channel, required in channels.items())
    return Task(name, title, read, reference, outputs=())


def task_named(name: str) -> Task:
    """The task of this name; raises UsageError that lists the names there are."""
    if name not in TASKS:
        raise UsageError(f"--task: expected one of {', '.join(TASKS)}, found {name!r}")
    return TASKS[name]

"""What the values of label maps mean to a training: labels, regions that are unions of values, and what is left out."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt, model_validator

from segsync.arrays import Mask
from segsync.bundle import check_regions
from segsync.lesions import within
from segsync_train.config.settings import Frozen

#: The largest value of a label map, and of how many a prepared case tells apart.
LARGEST, MOST = 255, 254


class LabelSet(Frozen):
    """Labels, by the values that masks are written with.

    Each is a value of the label maps or, with `regions`, a union of values (BraTS: the whole tumour is 1, 2 and 3). The
    network then gives a probability for each label by itself, and later labels are written over earlier ones.
    """

    #: Value and name of each; empty where nothing is said or cases are background throughout.
    labels: dict[PositiveInt, str] = Field(default_factory=dict)
    #: The values that each label is the union of, its own among them; empty: its own alone.
    regions: dict[PositiveInt, tuple[PositiveInt, ...]] = Field(default_factory=dict)
    #: The value of voxels that nobody labelled: left out of the loss, of what patches are centred on, and of scores.
    ignore: PositiveInt | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "LabelSet":
        check_regions(self.labels, self.regions)
        if self.ignore in self.values:
            raise ValueError(f"ignore: expected a value that is no label's, found {self.ignore}")
        if max(self.known, default=0) > LARGEST or len(self.values) > MOST:
            raise ValueError(f"labels: expected values of 1 to {LARGEST}, {MOST} at most, found {max(self.known)}")
        return self

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Values of label maps that are labelled, in the order in which prepared cases number them from 1."""
        if self.regions:
            return tuple(sorted({value for union in self.regions.values() for value in union}))
        return tuple(self.labels)

    @property
    def known(self) -> tuple[int, ...]:
        """Every value that a label map may hold beside 0."""
        return self.values if self.ignore is None else (*self.values, self.ignore)

    @cached_property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The numbers in prepared cases that each label is the union of."""
        place = {value: number for number, value in enumerate(self.values, start=1)}
        return tuple(tuple(place[value] for value in self.regions.get(label, (label,))) for label in self.labels)

    @property
    def outputs(self) -> int:
        """Channels of a network's output: one for each label, and one for the background unless labels overlap."""
        return len(self.labels) + (not self.regions)

    def within(self, array: npt.NDArray[np.generic], label: int) -> Mask:
        """Where a label map (Z, Y, X) shows a label."""
        return within(array, label, self.regions)

    def ignored(self, array: npt.NDArray[np.generic]) -> Mask:
        """Where a label map (Z, Y, X) says that nobody labelled it."""
        left_out: Mask = np.zeros(array.shape, dtype=bool) if self.ignore is None else array == self.ignore
        return left_out

    def labelled(self, array: npt.NDArray[np.generic]) -> Mask:
        """Where a label map (Z, Y, X) shows any label."""
        some: Mask = (array != 0) & ~self.ignored(array)
        return some

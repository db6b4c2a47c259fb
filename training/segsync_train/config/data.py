"""Where the cases of a training come from: folders with labels, or a generator; kept beside the run or elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from segsync_train.config.settings import Frozen
from segsync_train.config.synthesis import SynthesisConfig
from segsync_train.config.training import Seed, Triple


class FolderData(Frozen):
    """Labelled cases from a folder, divided into a fixed seeded split or k folds."""

    kind: Literal["folder"] = "folder"
    folder: Path
    #: How the folder is laid out: `nnunet`, `bids`, or the name of a data set (`segsync-train datasets`).
    layout: str = "nnunet"
    #: Fraction of the cases kept for validation, where there are no folds.
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    #: Number of folds of a cross-validation, and which of them validates this run.
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: NonNegativeInt = 0
    #: What stays on one side of the split: the cases of a `subject` always, with `site` those of a hospital as well, or
    #: any column of `participants.tsv`.
    group: str = "subject"
    #: Seed of the split and of the choice of labelled cases: the same for every run that is to be compared.
    split_seed: Seed = 0
    #: Fraction of the training cases whose labels are used, at least one case; the smaller is part of the larger.
    labelled: Annotated[float, Field(gt=0, le=1)] = 1.0
    #: Case names to use instead of the seeded split; of `training_cases` `labelled` takes the first part.
    training_cases: tuple[str, ...] = ()
    validation_cases: tuple[str, ...] = ()
    #: Preprocessed cases; None keeps them in the run's folder.
    cache: Path | None = None

    @model_validator(mode="after")
    def _fold_exists(self) -> "FolderData":
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist, there are {self.folds} (counted from 0)")
        if self.folds is None and self.fold > 0:
            raise ValueError(f"fold {self.fold} needs folds, their number; give it as well")
        if bool(self.training_cases) != bool(self.validation_cases):
            raise ValueError("training_cases and validation_cases belong together; give both or none")
        if self.training_cases and self.folds is not None:
            raise ValueError("folds and training_cases both divide the cases; give one of them")
        both = sorted(set(self.training_cases) & set(self.validation_cases))
        if both:
            raise ValueError(f"case {both[0]} is in training_cases and in validation_cases")
        return self


class SyntheticData(Frozen):
    """Cases drawn by `segsync_train.synthesis`: every one a function of the run's seed and its number."""

    kind: Literal["synthetic"] = "synthetic"
    #: Folder with `brain-label-maps`, `lesion-masks-soop` and `lesion-masks-lesymap`.
    sources: Path
    settings: SynthesisConfig = SynthesisConfig()
    #: Where the sources are kept as the generator needs them, for other runs as well; None: in the run's folder.
    cache: Path | None = None
    #: A new case is drawn after so many patches, and so many of the newest are kept to cut patches from.
    patches_per_case: PositiveInt = 8
    cases_in_memory: PositiveInt = 4
    #: Independent series of cases per place in the batch; as many as worker processes keeps all of them busy.
    streams: PositiveInt = 1
    #: Number of validation cases, the same in every run of one seed.
    validation_cases: PositiveInt = 8
    validation_seed: Seed = 0


def kind_from_keys(data: Any) -> Any:
    """Tell the kind of `data` by its keys, where the settings do not: folders of cases, or sources of drawn ones."""
    if not isinstance(data, Mapping) or "kind" in data:
        return data
    for key, kind in (("folder", "folder"), ("folders", "folder"), ("sources", "synthetic")):
        if key in data:
            return {"kind": kind, **data}
    found = ", ".join(map(str, data)) or "no key"
    raise ValueError(f"expected a folder of cases, or the sources of synthetic ones (kind: synthetic), found {found}")


def check_spacing(spacing_zyx: Triple, data: object) -> None:
    """Raise ValueError where synthetic cases are asked for on voxels that are no cubes."""
    if isinstance(data, SyntheticData) and len(set(spacing_zyx)) > 1:
        raise ValueError(f"spacing_zyx: expected one spacing for synthetic data, found {spacing_zyx}")

"""Another operating point for exported weights, chosen on drawn cases as their own run would."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from segsync.atomic import whole_file, why_not
from segsync.bundle import CARD_FILE, SPEC_FILE, DecisionSpec, load_bundle, write_manifest
from segsync.engine import open_engines
from segsync.errors import InputError, OutputError
from segsync.pipeline import Options, Pipeline
from segsync_train.config.data import SyntheticData
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import check_settings
from segsync_train.data.sources import VALIDATION, SyntheticSource
from segsync_train.evaluation.candidates import CANDIDATES
from segsync_train.evaluation.operating_point import OperatingPoint, TuningCase, rank, rules_named, tuning_cases
from segsync_train.export.card import model_card


def retune(
    folder: Path,
    device: str = "auto",
    cases: int | None = None,
    *,
    sources: Path | None = None,
    cache: Path | None = None,
    rules: str | None = None,
    mirror: bool = False,
    decision: DecisionSpec | None = None,
) -> OperatingPoint:
    """Choose an operating point for a folder of weights and write it into model.json, card and manifest.

    Args:
        folder: Weights that were trained on drawn cases.
        device: Where the network runs.
        cases: How many cases are drawn; None: as many as the run validated on.
        sources: Folder of the generator's sources; None: where they lay for the training.
        cache: Folder for what the generator prepares of its sources, as `data.cache` is to a training: the next call
            takes seconds. None: they are prepared for this call alone.
        rules: Name of the rules to rank by; None takes those of the task, else ISLES'22's.
        mirror: Average over mirrored copies, as `segsync` does by itself.
        decision: Taken as it is, and scored; None: the best of all candidates is chosen.

    Returns:
        The choice.

    Raises:
        InputError: The weights were trained on other data, the generator's sources are missing, or the rules unknown.
        WeightsError: The weights are damaged.
        OutputError: The folder cannot be written to.
    """
    bundle = load_bundle(folder)
    spec = bundle.spec
    config = check_settings(RunConfig, spec.provenance.get("config", {}), str(folder / SPEC_FILE))
    data = config.data
    if not isinstance(data, SyntheticData):
        raise InputError(
            f"{folder}: expected weights trained on drawn cases, found {data.kind}; tune their run instead"
        )
    if sources is not None:
        data = data.model_copy(update={"sources": sources})
    pipeline = Pipeline(spec, open_engines(bundle, device))
    options = Options(mirror=mirror)
    with TemporaryDirectory() as scratch:
        source = SyntheticSource(config.task, config.case_spec, data, config.seed, cache or data.cache or Path(scratch))

        def segmented() -> Iterator[TuningCase]:
            for number in range(cases or data.validation_cases):
                case = source.draw(VALIDATION, data.validation_seed, number)
                probabilities, _ = pipeline.predict(np.array(case.image), np.array(case.tissue), options)
                yield from tuning_cases(case, probabilities, config.label_set)

        tried = CANDIDATES if decision is None else (decision,)
        point = rank(segmented(), rules_named(rules, spec.task), folder, mirror=mirror, candidates=tried).point
    provenance = {**spec.provenance, "operating_point": point.model_dump(mode="json")}
    changed = spec.model_copy(update={**dict(point.decision), "provenance": provenance})
    try:
        with whole_file(folder / SPEC_FILE) as part:
            part.write_text(changed.model_dump_json(indent=2) + "\n", encoding="utf-8")
        with whole_file(folder / CARD_FILE) as part:
            part.write_text(model_card(changed, config.card), encoding="utf-8")
        write_manifest(folder.parent)
    except OSError as error:
        raise OutputError(f"{folder}: expected to write it, found {why_not(folder, error)}") from error
    return point

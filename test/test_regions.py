"""Labels that overlap (regions), and voxels that nobody labelled: nnU-Net's, from dataset.json to the mask."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from builders import CHANNELS, grid_of, spec_of, write_bundle, write_image
from segsync.bundle import ChannelSpec, InferenceSpec, ZScore, load_bundle
from segsync.errors import InputError
from segsync.geometry import Volume
from segsync.images import read
from segsync.lesions import lesion_count, measure
from segsync.pipeline import Case
from segsync.postprocess import labels_on
from segsync.predict import Model, task_of
from segsync.report import write_report
from segsync_train.config.labels import LabelSet
from segsync_train.config.run import LossConfig, RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.data.cases import IGNORED, build_case
from segsync_train.data.dataset import labels_onto
from segsync_train.data.formats import nnunet_description
from segsync_train.data.validate import validate_folder
from segsync_train.evaluation.evaluate import evaluate, load_model, parse_labels
from segsync_train.evaluation.metrics import RULES
from segsync_train.evaluation.operating_point import rules_named, tune_on, tuning_cases
from segsync_train.evaluation.prediction_folders import score_case
from segsync_train.export.export import export
from segsync_train.planning.plan import plan
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.losses import SegmentationLoss
from segsync_train.trainer.validation import score_case as validation_score
from training_cases import run_settings

#: BraTS of today: necrosis 1, oedema 2, enhancing 3; the whole is written first.
BRATS = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3, "ignore": 4},
    "regions_class_order": [2, 1, 3],
}
SET = LabelSet(labels={2: "whole", 1: "core", 3: "enhancing"}, regions={2: (1, 2, 3), 1: (1, 3), 3: (3,)}, ignore=4)
GRID = grid_of((4, 6, 6), (1.0, 1.0, 1.0))


def describe(folder: Path, about: Mapping[str, object]) -> Path:
    """A folder in nnU-Net's format with this dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = {"channel_names": {"0": "t1"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**channels, **about}))
    return folder


# --- what the values mean --------------------------------------------------------------------------------------------


def test_nnunets_regions_and_ignore_are_read(tmp_path: Path) -> None:
    found = nnunet_description(describe(tmp_path, BRATS))[1]
    assert found == SET
    assert [*found.labels] == [2, 1, 3], "masks are written in nnU-Net's order"
    assert (found.values, found.known, found.outputs) == ((1, 2, 3), (1, 2, 3, 4), 3)
    assert found.places == ((1, 2, 3), (1, 3), (3,))
    plain = nnunet_description(describe(tmp_path, {"labels": {"background": 0, "lesion": 2, "ignore": 3}}))[1]
    assert plain == LabelSet(labels={2: "lesion"}, ignore=3)
    assert (plain.values, plain.places, plain.outputs) == ((2,), ((1,),), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"regions_class_order": [2, 1]}, r"regions_class_order: expected a value for each of the 3 regions"),
        ({"regions_class_order": [2, 1, 5]}, r"regions.5: expected different values, 5 among them, found \[3\]"),
        ({"labels": {"background": 0, "lesion": "two"}}, r"labels.lesion: expected a value, or a list of values"),
        ({"labels": {"background": 0, "lesion": 1, "ignore": 1}}, r"ignore: expected a value that is no label's"),
    ],
)
def test_a_description_that_cannot_be_is_told(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=rf"dataset.json: .*{said}"):
        nnunet_description(describe(tmp_path, {**BRATS, **change}))


def test_the_check_of_a_folder_knows_what_training_takes(tmp_path: Path) -> None:
    """The value that marks what nobody labelled is right; one that nobody names is wrong."""
    folder = describe(tmp_path, BRATS)
    label = np.zeros(GRID.size_zyx, np.uint8)
    label[1, 1, :4] = (1, 2, 3, 4)
    rng = np.random.default_rng(0)
    for number in range(2):
        write_image(folder / "imagesTr" / f"c{number}_0000.nii.gz", rng.random(GRID.size_zyx, np.float32), GRID)
        write_image(folder / "labelsTr" / f"c{number}.nii.gz", label, GRID)
    assert validate_folder("nnunet", folder).problems == ()
    write_image(folder / "labelsTr" / "c1.nii.gz", np.where(label == 4, 5, label), GRID)
    (problem,) = validate_folder("nnunet", folder).problems
    assert "expected the label values 0, 1, 2, 3, 4, found 5" in problem
    write_image(folder / "labelsTr" / "c1.nii.gz", np.where(label > 0, 4, 0), GRID)
    write_image(folder / "labelsTr" / "c0.nii.gz", np.where(label > 0, 4, 0), GRID)
    (problem,) = validate_folder("nnunet", folder).problems
    assert "expected label maps that hold labels, found 2 empty ones" in problem


def test_a_command_line_names_regions_by_their_values() -> None:
    assert parse_labels(["1,2,3=whole", "1,3=core", "3=enhancing"], ignore=4) == SET
    with pytest.raises(InputError, match="expected a value that other labels have not, found '3=again'"):
        parse_labels(["3=enhancing", "3=again"])
    with pytest.raises(InputError, match="--ignore: expected --label as well"):
        parse_labels([], ignore=4)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_regions_have_a_sigmoid_each_by_hand() -> None:
    """Voxels of the values 2, 1, 0: in the whole are two, in the core is one."""
    labels = LabelSet(labels={1: "whole", 2: "core"}, regions={1: (1, 2), 2: (2,)})
    logits = torch.tensor([[2.0, 0.0, -1.0], [1.0, -2.0, 0.5]]).reshape(1, 2, 1, 1, 3)
    target = torch.tensor([2, 1, 0], dtype=torch.uint8).reshape(1, 1, 1, 3)
    p = [[1 / (1 + np.exp(-x)) for x in row] for row in ((2.0, 0.0, -1.0), (1.0, -2.0, 0.5))]
    truth = ((1, 1, 0), (1, 0, 0))
    dice = [(2 * np.dot(a, b) + 1) / (sum(a) + sum(b) + 1) for a, b in zip(p, truth, strict=True)]
    entropy = [-np.log(a if b else 1 - a) for ps, ts in zip(p, truth, strict=True) for a, b in zip(ps, ts, strict=True)]
    found = [
        float(SegmentationLoss(LossConfig(dice=one, cross_entropy=other), labels)([logits], target))
        for one, other in ((1, 0), (0, 1))
    ]
    assert found == pytest.approx([1 - np.mean(dice), np.mean(entropy)], rel=1e-5)
    with_term, without = (
        float(SegmentationLoss(LossConfig(lesion=weight), labels)([logits], target, torch.ones(1, 1, 1, 3)))
        for weight in (1.0, 0.0)
    )
    likeliest = [max(pair) for pair in zip(*p, strict=True)]
    expected = 1 - (2 * (likeliest[0] + likeliest[1]) + 1) / (sum(likeliest) + 2 + 1)
    assert with_term - without == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("top_k", [None, 0.25])
def test_what_nobody_labelled_is_as_if_it_were_not_there(regions: bool, top_k: float | None) -> None:
    """The loss of two samples whose far half is ignored is that of their near halves, and moves no logit there."""
    labels = LabelSet(labels={1: "a", 2: "b"}, regions={1: (1, 2), 2: (2,)} if regions else {}, ignore=9)
    torch.manual_seed(0)
    logits = torch.randn(2, labels.outputs, 4, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 4, 4), dtype=torch.uint8)
    nearest = torch.ones(2, 4, 4, 4, dtype=torch.int32)
    loss = SegmentationLoss(LossConfig(lesion=0.5, top_k=top_k), labels)
    near = loss([logits[:, :, :2]], target[:, :2], nearest[:, :2])
    target[:, 2:] = IGNORED
    found = loss([logits], target, nearest)
    assert float(found.detach()) == pytest.approx(float(near.detach()), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient[:, :, 2:].any()
    assert gradient[:, :, :2].any()
    nothing = loss([logits], torch.full_like(target, IGNORED), torch.zeros_like(nearest))
    assert float(nothing.detach()) == 0


def test_a_coarse_voxel_counts_by_what_is_known_of_it() -> None:
    """Of eight voxels four are ignored, one of the others is a lesion: a target of 1/4 that weighs a half."""
    labels = LabelSet(labels={1: "a"}, ignore=9)
    target = torch.zeros(1, 2, 2, 4, dtype=torch.uint8)
    target[0, 0, :, :2] = IGNORED
    target[0, 1, 0, 0] = 1
    logits = torch.tensor([0.3, -0.2, 1.0, 0.4]).reshape(1, 2, 1, 1, 2)
    losses = -logits.log_softmax(1)[0, :, 0, 0]
    expected = (0.5 * (0.75 * losses[0, 0] + 0.25 * losses[1, 0]) + losses[0, 1]) / 1.5
    found = SegmentationLoss(LossConfig(dice=0.0), labels)([logits], target)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_without_regions_and_ignore_the_loss_is_monais() -> None:
    from monai.losses import DiceCELoss

    torch.manual_seed(1)
    logits, target = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    judge = DiceCELoss(include_background=False, softmax=True, smooth_nr=1.0, smooth_dr=1.0)
    onehot: Tensor = F.one_hot(target, 3).movedim(-1, 1).float()
    for labels in (None, LabelSet(labels={1: "a", 2: "b"}), LabelSet(labels={1: "a", 2: "b"}, ignore=9)):
        found = SegmentationLoss(LossConfig(), labels)([logits], target)
        assert float(found) == pytest.approx(float(judge(logits, onehot)), rel=1e-6)


# --- from probabilities to masks and reports -------------------------------------------------------------------------


def of_set(labels: LabelSet, **changes: Any) -> InferenceSpec:
    """A model of these labels and regions."""
    return spec_of(*CHANNELS["aims-tbi"], labels=labels.labels, regions=labels.regions, **changes)


def test_masks_are_written_in_the_regions_order() -> None:
    """A row of six voxels: whole, core and enhancing each at its own threshold, later ones over earlier."""
    probabilities = np.zeros((3, *GRID.size_zyx), np.float32)
    probabilities[:, 0, 0] = [
        (0.9, 0.9, 0.9, 0.2, 0.4, 0.0),  # whole writes 2
        (0.1, 0.8, 0.7, 0.3, 0.4, 0.0),  # core writes 1
        (0.0, 0.3, 0.6, 0.9, 0.4, 0.0),  # enhancing writes 3, outside of the whole as well
    ]
    mask, removed = labels_on(probabilities, GRID, GRID, of_set(SET))
    assert mask[0, 0].tolist() == [2, 1, 3, 3, 0, 0]
    assert (removed, int((mask > 0).sum())) == (0, 4)
    # Of the core's component of two voxels none is left, and the whole is seen there.
    mask, removed = labels_on(probabilities, GRID, GRID, of_set(SET, min_component_ml=0.003))
    assert (mask[0, 0].tolist(), removed) == ([2, 2, 2, 0, 0, 0], 2)


def test_a_report_measures_unions() -> None:
    mask = np.zeros(GRID.size_zyx, np.uint8)
    mask[1, 1, :4], mask[3, 5, 5] = (2, 1, 3, 2), 2
    found = measure(mask, GRID, SET.labels, SET.regions)
    volumes = {(one.label_name, one.voxels) for one in found}
    assert volumes == {("whole", 4), ("whole", 1), ("core", 2), ("enhancing", 1)}
    assert lesion_count(mask, found, SET.regions) == 2


def test_a_report_says_how_each_region_was_decided(tmp_path: Path) -> None:
    channels = (ChannelSpec(name="t1", normalisation=ZScore()),)
    own = {1: {"threshold": 0.3, "min_component_confidence": 0.6}}
    folder = write_bundle(
        tmp_path / "own", "own", channels=channels, labels={1: "core"}, regions={1: [1]}, region_decisions=own
    )
    bundle = load_bundle(folder)
    image = np.arange(8**3, dtype=np.float32).reshape((8,) * 3)
    result = Model(bundle, task_of(bundle.spec), device="cpu").predict({"t1": Volume(image, grid_of((8,) * 3))})
    *_, page = write_report(result, tmp_path / "out" / "c", {})
    assert "core: threshold 0.3, smallest lesion 0 ml" in page.read_text()
    assert json.loads((tmp_path / "out" / "c_report.json").read_text())["weights"]["region_decisions"]["1"] == {
        "threshold": 0.3, "min_component_ml": 0.0, "min_component_confidence": 0.6,
    }  # fmt: skip


# --- prepared cases --------------------------------------------------------------------------------------------------


def test_patches_are_centred_on_nothing_that_nobody_labelled() -> None:
    label = np.zeros((6, 6, 6), np.uint8)
    label[:3], label[4, 2, 2] = IGNORED, 1
    case = build_case("c", np.zeros((1, 6, 6, 6), np.float32), label, np.ones((6, 6, 6), bool), (1.0, 1.0, 1.0))
    assert set(map(tuple, case.foreground.tolist())) == {(4, 2, 2)}
    assert case.inside[:, 0].min() == 3
    assert (int(case.labelled.sum()), int(case.ignored.sum())) == (1, 108)


def test_on_a_coarser_grid_the_larger_part_decides() -> None:
    fine, coarse = grid_of((8, 8, 8), (1.0, 1.0, 1.0)), grid_of((4, 4, 4), (2.0, 2.0, 2.0))
    label = np.zeros((8, 8, 8), np.uint8)
    label[:, :, :4], label[:, :, 4:] = 4, 3
    found = labels_onto(Volume(label, fine), coarse, SET.values, SET.ignore)
    assert (found[1:-1, 1:-1, 0] == IGNORED).all()
    assert (found[1:-1, 1:-1, 3] == 3).all()


# --- scores ----------------------------------------------------------------------------------------------------------


def scored() -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction; the last two columns were labelled by nobody."""
    reference, predicted = np.zeros((2, *GRID.size_zyx), np.uint8)
    reference[0, 0], predicted[0, 0] = (2, 1, 3, 0, 4, 4), (1, 1, 2, 0, 3, 3)
    return reference, predicted


def test_scores_are_of_unions_and_pass_over_what_nobody_labelled() -> None:
    """Whole: 3 of 3; core: 2 found, 2 there, 1 common; enhancing: 1 missed, and nothing false in the ignored part."""
    reference, predicted = scored()
    rows = score_case("c", Volume(reference, GRID), Volume(predicted, GRID), SET, RULES["isles22"])
    assert [(row.name, row.scores.dice) for row in rows] == [("whole", 1.0), ("core", 0.5), ("enhancing", 0.0)]
    assert [row.scores.predicted_lesions for row in rows] == [1, 1, 0]
    case = build_case(
        "c", np.zeros((1, *GRID.size_zyx), np.float32), np.where(reference == 4, IGNORED, reference),
        np.ones(GRID.size_zyx, bool), (1.0, 1.0, 1.0),
    )  # fmt: skip
    found = validation_score(case, predicted, SET.places)
    assert (found.dice, found.holds) == ((1.0, 0.5, 0.0), (True, True, True))
    assert (found.lesions, found.found, found.false) == (1, 1, 0)
    together, *each = tuning_cases(case, np.full((3, *GRID.size_zyx), 0.4, np.float32), SET)
    assert [(one.region, int(one.reference.sum())) for one in (together, *each)] == [(None, 3), (2, 3), (1, 2), (3, 1)]
    for one in (together, *each):
        assert float(one.probability.max()) == pytest.approx(0.4)
        assert not one.probability[0, 0, 4:].any()


def test_each_region_has_an_operating_point_of_its_own(tmp_path: Path) -> None:
    """The core is as probable where it is as the whole is where it is not: no threshold is right for both."""
    labels = LabelSet(labels={1: "whole", 2: "core"}, regions={1: (1, 2), 2: (2,)})
    label = np.zeros(GRID.size_zyx, np.uint8)
    label[..., :4], label[..., :2] = 1, 2
    case = build_case(
        "c", np.zeros((1, *GRID.size_zyx), np.float32), label, np.ones(GRID.size_zyx, bool), (1.0, 1.0, 1.0)
    )
    whole, core = np.where(label > 0, 0.7, 0.32), np.where(label > 1, 0.32, 0.05)
    probabilities = np.stack([whole, core]).astype(np.float32)
    point = tune_on(tuning_cases(case, probabilities, labels), rules_named(None, "isles22"), tmp_path)
    assert point.decision_of(1).threshold > 0.32 >= point.decision_of(2).threshold
    spec = of_set(labels, **dict(point.decision))
    mask, _ = labels_on(probabilities, GRID, GRID, spec)
    assert np.array_equal(mask, label)
    assert f"core {point.decision_of(2).threshold:g}; components below" in spec.decision_in_words
    some = of_set(labels, threshold=0.6, region_decisions={2: {"threshold": 0.3}})
    assert some.decision_in_words.startswith("whole 0.6; components below 0 ml are removed. core 0.3; components")
    with pytest.raises(ValueError, match=r"region_decisions: expected regions \(\[1, 2\]\), found \[3\]"):
        of_set(labels, region_decisions={3: {}})


def test_folders_are_scored_so_from_the_command_line(tmp_path: Path) -> None:
    reference, predicted = scored()
    write_image(tmp_path / "there" / "a.nii.gz", reference, GRID)
    write_image(tmp_path / "found" / "a.nii.gz", predicted, GRID)
    labels = parse_labels(["1,2,3=whole", "1,3=core", "3=enhancing"], ignore=4)
    groups, _ = evaluate(tmp_path / "found", tmp_path / "out", references=tmp_path / "there", labels=labels)
    means = {one.name: one.metrics["dice"].mean for one in groups if one.cases == "all"}
    assert means == {"whole": 1.0, "core": 0.5, "enhancing": 0.0, "mean of labels": 0.5}


# --- from a folder to a mask -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright balls with a brighter core; a slab of each case was labelled by nobody."""
    folder = tmp_path_factory.mktemp("regions")
    describe(
        folder,
        {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]},
    )
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    for number in range(5):
        rng = np.random.default_rng(number)
        centre = rng.integers(5, 11, 3)
        distance = np.linalg.norm(np.indices((16,) * 3) - centre[:, None, None, None], axis=0)
        label = (distance < 4.5).astype(np.uint8) + (distance < 2.5)
        image = 100 + 4 * rng.standard_normal(label.shape) + 60 * label
        label[:2] = 3
        for what, array in (("imagesTr/c{}_0000", image.astype(np.float32)), ("labelsTr/c{}", label.astype(np.uint8))):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{what.format(number)}.nii.gz"))
    return folder


def test_a_planned_run_of_regions_ends_in_a_mask(cases: Path, tmp_path: Path) -> None:
    """plan → finetune → evaluate → export → segment: the runtime's mask is the run's, and both labels are found."""
    settings = tmp_path / "settings.yaml"
    made = plan(cases, settings, memory="4GB", device="cpu", folds=2)
    assert (made.config.regions, made.config.ignore) == ({1: (1, 2), 2: (2,)}, 3)
    assert load_settings(RunConfig, settings).label_set == made.config.label_set
    small = {key: run_settings(cases)[key] for key in ("patch_zyx", "network", "optimiser", "device", "workers")}
    chosen = {**yaml.safe_load(settings.read_text()), **small, "steps": 60, "validation": {"every": 60, "overlays": 1}}
    config = RunConfig.model_validate({**chosen, "batch": 4, "foreground": 0.7, "ema": None, "mirror_axes": []})
    finetune(config, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "weights")
    folder = tmp_path / "weights" / config.task
    bundle = load_bundle(folder)
    assert bundle.spec.regions == config.regions
    assert "1 whole (region of 1, 2), 2 core (region of 2)" in (folder / "MODEL_CARD.md").read_text()
    of_run, model = load_model(tmp_path / "run", "cpu"), Model(bundle, task_of(bundle.spec), device="cpu")
    image = cases / "imagesTr" / "c0_0000.nii.gz"
    one, other = (pipeline.segment(Case("c0", {"t1": image})) for pipeline in (of_run.pipeline, model.pipeline))
    assert set(np.unique(one.mask)) == {0, 1, 2}
    assert (one.mask != other.mask).mean() < 0.002
    groups, _ = evaluate(tmp_path / "run", tmp_path / "scores", part="all")
    means = {group.name: group.metrics["dice"].mean for group in groups if group.cases == "all"}
    assert (means["whole"] or 0) > 0.6, means
    truth = read(cases / "labelsTr" / "c0.nii.gz").array
    assert (one.mask[truth == 2] == 2).mean() > 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"regions": {2: [2]}}, "regions: expected one for each label"),
        ({"ignore": 1}, "ignore: expected a value that is no label's, found 1"),
        (
            {"labels": {1: "brain", 2: "skull"}, "organ": {"plausible_ml": [700, 2200]}},
            "organ: expected a single label, that lies in one piece, found brain, skull",
        ),
    ],
)
def test_settings_that_cannot_be_are_told(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RunConfig.model_validate(run_settings(tmp_path, **change))

"""Numbers of a patient beside the images: found in JSON and tables, given to networks, missing, and learned from."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from onnx import helper

import segsync
from builders import AS_IT_IS, Cli, ball, dice, graph, grid_of, tissue_of, write_bundle, write_image, write_platform
from segsync.bundle import ChannelSpec, Fixed, PreprocessingSpec, ScalarSpec
from segsync.clinical import read_clinical, value_of
from segsync.errors import InputError
from segsync.geometry import Volume
from segsync.images import read
from segsync.pipeline import Case
from segsync.preprocess import prepare
from segsync_train.config.run import AugmentationConfig
from segsync_train.data.augment import Augmentation
from segsync_train.data.dataset import case_of, find_cases
from segsync_train.evaluation.evaluate import evaluate, load_model
from segsync_train.export.export import export
from segsync_train.trainer.finetune import finetune
from training_cases import NO_AUGMENTATION, run_config

GRID = grid_of((16, 18, 20))
LESION = ball(GRID, 5.0)
NIHSS = ScalarSpec(names=("NIHSS at admission", "nihss"))
SCALE = Fixed(low=0, high=42, mean=12, std=8)


def channels(**changes: object) -> tuple[ChannelSpec, ...]:
    nihss = {"name": "nihss", "normalisation": SCALE, "optional": True, "scalar": NIHSS, **changes}
    return ChannelSpec(name="t1", normalisation=AS_IT_IS), ChannelSpec.model_validate(nihss)


def second_channel() -> bytes:
    """The second channel, clipped to [0, 1], as the lesion's probability."""
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["second"]),
        helper.make_node("Clip", ["second", "low", "high"], ["y"]),
    ]
    places = {"from": np.array([1]), "to": np.array([2]), "axis": np.array([1])}
    return graph(nodes, {**places, "low": np.float32(0), "high": np.float32(1)}, channels=2)


# --- what is known of a patient --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ({"NIHSS at admission": 12}, 12.0),
        ({"acute-stroke-clinical-information": {"nihss_at_admission": "7,5"}}, 7.5),
        ({"Age": 70}, None),
        ({"nihss": "n/a"}, None),
        ({"nihss": None}, None),
        ({"nihss": float("nan")}, None),
        ({"nihss": "severe"}, 20.0),
        ({"nihss": True}, 1.0),
    ],
)
def test_a_number_is_found_by_any_of_its_names(said: dict[str, object], value: float | None) -> None:
    assert value_of(ScalarSpec(names=NIHSS.names, words={"Severe": 20}), said) == value


def test_a_word_that_is_no_number_is_told() -> None:
    with pytest.raises(ValueError, match="could not convert string to float: 'high'"):
        value_of(NIHSS, {"nihss": "high"})


def test_files_say_what_they_know_of_one_patient_and_of_no_other(tmp_path: Path) -> None:
    names = ("sub-1_ses-1", "sub-1", "1")
    for name, text, found in (
        ("one.json", '{"nihss": 4}', {"nihss": 4}),
        ("all.json", '{"sub-1": {"nihss": 4}, "sub-2": {"nihss": 9}}', {"nihss": 4}),
        ("others.json", '{"sub-2": {"nihss": 9}, "sub-3": {"nihss": 1}}', {}),
        ("one.csv", "Age;NIHSS\n70;4\n", {"Age": "70", "NIHSS": "4"}),
        ("all.tsv", "participant_id\tnihss\nsub-2\t9\nsub-1\t4\n", {"participant_id": "sub-1", "nihss": "4"}),
        ("others.tsv", "participant_id\tnihss\nsub-2\t9\n", {}),
    ):
        (tmp_path / name).write_text(text)
        assert read_clinical(tmp_path / name, names) == found, name
    for name, text in (("list.json", "[1]"), ("broken.json", "{"), ("rows.csv", "Age,NIHSS\n70,4\n60,5\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=rf"{name}: expected clinical data as JSON, CSV or TSV, found "):
            read_clinical(tmp_path / name, names)


def test_of_several_patients_each_has_its_own_numbers_or_none(tmp_path: Path) -> None:
    """One patient's numbers are no other's, though the file holds none but them."""
    for name, text in (("one.json", '{"nihss": 4}'), ("one.csv", "Age,NIHSS\n70,4\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=rf"{name}: expected clinical data .* no patient's name in it"):
            read_clinical(tmp_path / name, ("sub-1",), alone=False)
    (tmp_path / "first.json").write_text('{"sub-1": {"nihss": 4}}')
    assert read_clinical(tmp_path / "first.json", ("sub-1",), alone=False) == {"nihss": 4}
    assert read_clinical(tmp_path / "first.json", ("sub-2",), alone=False) == {}


def test_a_folder_of_cases_does_not_share_one_patients_numbers(cli: Cli, tmp_path: Path) -> None:
    weights = write_bundle(tmp_path / "own", "own", channels=channels(), model=second_channel())
    for name in ("sub-1", "sub-2"):
        write_image(tmp_path / "cases" / f"{name}_t1.nii.gz", LESION + np.float32(0), GRID)
    (tmp_path / "one.json").write_text('{"nihss": 18}')
    arguments = ("predict", "-i", tmp_path / "cases", "-o", tmp_path / "masks", "--weights", weights, "--device", "cpu")
    done = cli(*arguments, "--clinical", tmp_path / "one.json")
    assert done.code == 3
    assert "no patient's name in it" in done.err


def test_isles24s_acute_data_are_found_and_its_outcome_is_not(tmp_path: Path) -> None:
    case = "sub-stroke0001"
    folder = tmp_path / "train"
    write_image(folder / f"raw_data/{case}/ses-01/{case}_ses-01_ncct.nii.gz", tissue_of(GRID, 30), GRID)
    for session, name, text in (
        ("ses-01", "demographic_baseline", "Age,Sex,NIHSS at admission\n71,F,14\n"),
        ("ses-02", "outcome", "NIHSS at admission,mRS 3 months\n99,4\n"),
    ):
        path = folder / f"phenotype/{case}/{session}/{case}_{session}_{name}.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (files,) = find_cases("isles24", tmp_path, ["ncct"])
    assert [path.parent.name for path in files.clinical] == ["ses-01"]
    ncct = ChannelSpec(name="ncct", normalisation=Fixed(low=0, high=80, mean=30, std=12))
    spec = PreprocessingSpec(channels=(ncct, channels()[1]), spacing_zyx=(1.0, 1.0, 1.0))
    assert value_of(NIHSS, case_of(files, spec).metadata) == 14


# --- what the network is given ---------------------------------------------------------------------------------------


def test_a_number_is_the_same_everywhere_and_the_mean_where_it_is_missing() -> None:
    """(20 - 12) / 8 is 1; beyond the range the nearer end is taken, with a warning."""
    spec = PreprocessingSpec(channels=channels(), spacing_zyx=(1.0, 1.0, 1.0))
    image = Volume(LESION + np.float32(0.5), GRID)
    for said, value, warning in (
        ({"nihss": 20}, 1.0, None),
        ({"nihss": 50}, 3.75, "channel nihss: expected 0 to 42, found 50; the nearer end is taken"),
        ({}, 0.0, "no number called NIHSS at admission or nihss in the clinical data"),
        ({"nihss": "high"}, 0.0, "found could not convert string to float: 'high'; the model goes on with the mean"),
    ):
        prepared = prepare(lambda name: image, spec, "t1", clinical=said)
        assert (prepared.array[1] == np.float32(value)).all()
        assert (warning is None) == (prepared.warnings == ())
        assert warning is None or warning in prepared.warnings[0]


def test_the_network_sees_it_times_the_reference_and_the_report_tells_it(cli: Cli, tmp_path: Path) -> None:
    """The probability is the number on its scale in the lesion: 0.75 at 18, 0.25 at 14, 0 where it is missing."""
    weights = write_bundle(tmp_path / "own", "own", channels=channels(), model=second_channel())
    model = segsync.load("own", weights=weights, device="cpu")
    image = {"t1": Volume(LESION + np.float32(0), GRID)}
    for said, value in (({"NIHSS": 18}, 0.75), ({"NIHSS": 14}, 0.25), (None, 0.0)):
        result = model.predict(image, clinical=said)
        assert result.probability()[LESION > 0] == pytest.approx(value)
        assert np.array_equal(result.mask, (LESION > 0) * (value > 0.5))
    write_image(tmp_path / "cases" / "sub-7_t1.nii.gz", image["t1"].array, GRID)
    (tmp_path / "patients.tsv").write_text("participant_id\tNIHSS\nsub-7\t18\n")
    done = cli(
        "predict", "-i", tmp_path / "cases", "-o", tmp_path / "masks", "--weights", weights, "--device", "cpu",
        "--clinical", tmp_path / "patients.tsv", "--report",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert dice(read(next((tmp_path / "masks").glob("sub-7*.nii.gz"))).array, LESION) == 1
    (report,) = (tmp_path / "masks").glob("*_report.json")
    assert json.loads(report.read_text())["metadata"]["patients.tsv"]["NIHSS"] == "18"


def test_weights_that_need_a_number_end_without_it(cli: Cli, tmp_path: Path) -> None:
    weights = write_bundle(tmp_path / "own", "own", channels=channels(optional=False), model=second_channel())
    write_image(tmp_path / "sub-7_t1.nii.gz", LESION + np.float32(0), GRID)
    done = cli("predict", "-i", tmp_path / "sub-7_t1.nii.gz", "-o", tmp_path / "masks", "--weights", weights)
    assert done.code == 3
    assert "nihss: no number called NIHSS at admission or nihss in the clinical data" in done.err


def test_the_container_reads_it_from_the_challenges_json(cli: Cli, tmp_path: Path) -> None:
    ncct = ChannelSpec(name="ncct", normalisation=AS_IT_IS)
    weights = write_bundle(tmp_path / "isles24", "isles24", channels=(ncct, channels()[1]), model=second_channel())
    images = {
        name: Volume(LESION + np.float32(0.1), GRID) for name in ("non-contrast-ct", "preprocessed-CT-angiography")
    }
    images |= {f"preprocessed-{name}-map": Volume(tissue_of(GRID, 5), GRID) for name in ("tmax", "cbf", "cbv", "mtt")}
    json_input = "acute-stroke-clinical-information.json"
    for score, found in ((28, 1.0), (3, 0.0)):
        source = write_platform(tmp_path / f"input-{score}", images, None, json_input)
        (source / json_input).write_text(json.dumps({"Age": 70, "NIHSS at admission": score}))
        output = tmp_path / f"output-{score}"
        done = cli("run", "--input", source, "--output", output, "--weights", weights, "--device", "cpu")
        assert done.code == 0, done.err
        mask = sitk.ReadImage(str(output / "images" / "stroke-lesion-segmentation" / "output.mha"))
        assert bool(sitk.GetArrayFromImage(mask).any()) == bool(found)


def test_augmentation_changes_images_and_then_multiplies() -> None:
    """Noise and brightness are the image's; the number is left as it is, or is taken away."""
    image = np.stack([np.random.default_rng(0).random((8, 8, 8), np.float32), np.full((8, 8, 8), 2.0, np.float32)])
    strong = AugmentationConfig(
        **{**NO_AUGMENTATION, "rotate_zoom": 0, "noise": 1.0, "brightness": 1.0, "drop_optional": 0.5}
    )
    augmentation = Augmentation(strong, (8, 8, 8), (), optional=(1,), scalars=(1,), reference=0)
    seen = set()
    for seed in range(12):
        given, _ = augmentation(image.copy(), np.zeros((8, 8, 8), np.uint8), np.random.default_rng(seed))
        assert not np.array_equal(given[0], image[0])
        factor = float(given[1, 0, 0, 0] / given[0, 0, 0, 0])
        assert np.allclose(given[1], factor * given[0], atol=1e-6)
        seen.add(round(factor, 3))
    assert seen == {0.0, 2.0}


# --- what is learned of it -------------------------------------------------------------------------------------------


def test_what_only_the_number_tells_is_learned(tmp_path: Path) -> None:
    """Each head shows a ball; it is a lesion where the score is high. The image alone cannot tell, and Dice would be
    a half at best."""
    folder = tmp_path / "cases"
    rows = ["participant_id\tnihss"]
    for number in range(8):
        rng = np.random.default_rng(number)
        distance = np.linalg.norm(np.indices((16,) * 3) - rng.integers(5, 11, 3)[:, None, None, None], axis=0)
        shown, severe = distance < 4.0, number % 2
        image = 100 + 4 * rng.standard_normal(shown.shape) + 80 * shown
        write_image(folder / "imagesTr" / f"p{number}_0000.nii.gz", image.astype(np.float32), grid_of((16,) * 3))
        write_image(folder / "labelsTr" / f"p{number}.nii.gz", (shown * severe).astype(np.uint8), grid_of((16,) * 3))
        rows.append(f"p{number}\t{20 if severe else 4}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    scalar = {"name": "nihss", "normalisation": SCALE.model_dump(), "scalar": NIHSS.model_dump()}
    t1 = {"name": "t1", "normalisation": {"kind": "zscore"}}
    config = run_config(
        folder, channels=[t1, scalar], steps=90, batch=4, ema=None, patch_zyx=[16, 16, 16],
        augmentation={**NO_AUGMENTATION, "rotate_zoom": 0}, validation={"every": 90, "overlays": 0},
    )  # fmt: skip
    finetune(config, tmp_path / "run")
    groups, _ = evaluate(tmp_path / "run", tmp_path / "scores", part="all")
    dice_of_all = next(group for group in groups if group.cases == "all").metrics["dice"].mean
    assert (dice_of_all or 0) > 0.8
    export(tmp_path / "run", tmp_path / "weights")
    of_run, of_export = (load_model(place, "cpu") for place in (tmp_path / "run", tmp_path / "weights" / "custom"))
    image = folder / "imagesTr" / "p1_0000.nii.gz"
    volumes = []
    for model in (of_run, of_export):
        for score in (20, 4):
            found = model.pipeline.segment(Case("p1", {"t1": image}, {"nihss": score}))
            volumes.append(int(found.mask.sum()))
    assert volumes[0] > 10 * volumes[1]
    assert volumes[2:] == pytest.approx(volumes[:2], abs=3)

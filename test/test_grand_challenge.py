"""The platform's door: the task told by sockets, the files where the contract says, all of them or none."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from builders import (
    AS_IT_IS,
    Cli,
    Outcome,
    ball,
    files_below,
    grid_of,
    isles22_volumes,
    orientations,
    rotated,
    tissue_of,
    write_bundle,
    write_image,
    write_platform,
)
from segsync.arrays import Array
from segsync.bundle import ChannelSpec, Fixed
from segsync.errors import InputError
from segsync.geometry import Grid, Volume
from segsync.grand_challenge import choose_task, is_platform_folder, read_case, read_inputs
from segsync.tasks import TASKS

GRID = grid_of((12, 13, 14), (1.0, 1.0, 1.0), (31.0, -4.5, 120.25), rotated(orientations()[22], (9.0, -6.0, 11.0)))
LESION = ball(GRID, 4.0)

ISLES22_JSON = (
    "dwi-mri-acquisition-parameters.json adc-mri-parameters.json flair-mri-acquisition-parameters.json"
)  # fmt: skip
MAPS = ("tmax", "cbf", "cbv", "mtt")


def isles22(lesion: Array = LESION) -> dict[str, Volume]:
    return {f"{name}-brain-mri": volume for name, volume in isles22_volumes(lesion, GRID).items()}


def isles24(sockets: tuple[str, ...]) -> dict[str, Volume]:
    return {"non-contrast-ct": Volume(LESION, GRID), **{s: Volume(tissue_of(GRID, 5), GRID) for s in sockets}}


DERIVATIVES = ("preprocessed-CT-angiography", *(f"preprocessed-{name}-map" for name in MAPS))
RAW = ("ct-angiography", *(f"{name}-parameter-map" for name in MAPS))
T1 = {"t1-brain-mri": Volume(LESION, GRID)}
CLINICAL = "acute-stroke-clinical-information.json"
MASK = "images/stroke-lesion-segmentation"
MAP = "images/lesion-probability-map"

#: Name, images, JSON inputs, task, files of the output. ISLES'22 names its mask after the DWI.
CONTRACT: list[tuple[str, Mapping[str, Volume], str, str, list[str]]] = [
    ("isles22", isles22(), ISLES22_JSON, "isles22", [f"{MASK}/dwi-brain-mri-0001.mha", "results.json"]),
    ("isles24 derivatives", isles24(DERIVATIVES), CLINICAL, "isles24", [f"{MASK}/output.mha"]),
    ("isles24 raw", isles24(RAW), CLINICAL.replace("-", "_"), "isles24", [f"{MASK}/output.mha"]),
    (
        "isles24 all",
        isles24((*DERIVATIVES, *RAW, "perfusion-ct", "preprocessed-perfusion-ct")),
        CLINICAL,
        "isles24",
        [f"{MASK}/output.mha"],
    ),
    ("aims-tbi", T1, "", "aims-tbi", ["brain-lesion-presence.json", "images/tbi-segmentation/output.mha"]),
    ("isles26", T1, "stroke-metadata.json", "isles26", [f"{MAP}/output.mha", f"{MASK}/output.mha"]),
]


def run(cli: Cli, source: Path, output: Path, weights: Path, *options: str) -> Outcome:
    return cli("run", "--input", source, "--output", output, "--weights", weights, "--device", "cpu", *options)


@pytest.mark.parametrize("listing", [None, "socket", "interface"])
@pytest.mark.parametrize(
    ("images", "json_files", "task", "outputs"), [row[1:] for row in CONTRACT], ids=[row[0] for row in CONTRACT]
)
def test_the_contract(
    cli: Cli,
    tmp_path: Path,
    weights: Path,
    images: Mapping[str, Volume],
    json_files: str,
    task: str,
    outputs: list[str],
    listing: str | None,
) -> None:
    """Every task, told by the folders or by `inputs.json` of either kind: these files alone, on the input's grid."""
    source = write_platform(tmp_path / "input", images, listing, json_files)
    assert choose_task(read_inputs(source)).name == task
    done = run(cli, source, tmp_path / "output", weights)
    assert done.code == 0, done.err
    assert files_below(tmp_path / "output") == outputs
    for path in (tmp_path / "output").rglob("*.mha"):
        image = sitk.ReadImage(str(path))
        assert Grid.of(image) == GRID
        values = sitk.GetArrayFromImage(image)
        if "probability" in str(path):
            assert values.dtype == np.float32
            assert values == pytest.approx(LESION, abs=1e-5)
        else:
            assert values.dtype == np.uint8
            assert np.array_equal(values, LESION)


def test_maps_in_register_come_before_the_scanners_own(tmp_path: Path) -> None:
    """Where the platform gives both: the preprocessed ones lie on the CT's grid."""
    source = write_platform(tmp_path / "input", isles24((*RAW, *DERIVATIVES)))
    case = read_case(read_inputs(source), TASKS["isles24"])
    paths = {name: path for name, path in case.channels.items() if isinstance(path, Path)}
    assert {name: path.parent.name for name, path in paths.items()} == {
        "ncct": "non-contrast-ct",
        "cta": "preprocessed-CT-angiography",
        **{name: f"preprocessed-{name}-map" for name in MAPS},
    }


def test_results_json_repeats_inputs_and_outputs(cli: Cli, tmp_path: Path, weights: Path) -> None:
    source = write_platform(tmp_path / "input", isles22(), None, ISLES22_JSON)
    assert (
        cli("run", "--input", source, "--output", tmp_path / "out", "--weights", weights, "--device", "cpu").code == 0
    )
    [item] = json.loads((tmp_path / "out" / "results.json").read_text())
    name = "dwi-brain-mri-0001.mha"
    assert item["outputs"] == [{"type": "Image", "slug": "stroke-lesion-segmentation", "filename": name}]
    assert item["inputs"] == [{"type": "Image", "slug": "dwi-brain-mri", "filename": name}]


@pytest.mark.parametrize("lesion", [True, False])
def test_presence_is_a_bare_boolean(cli: Cli, tmp_path: Path, weights: Path, lesion: bool) -> None:
    array = LESION if lesion else LESION * np.float32(0.1) + np.float32(0.1)
    source = write_platform(tmp_path / "input", {"t1-brain-mri": Volume(array, GRID)})
    assert (
        cli("run", "--input", source, "--output", tmp_path / "out", "--weights", weights, "--device", "cpu").code == 0
    )
    assert json.loads((tmp_path / "out" / "brain-lesion-presence.json").read_text()) is lesion


def test_the_task_can_be_named(cli: Cli, tmp_path: Path, weights: Path) -> None:
    """A T1 alone is AIMS-TBI's; with `--task` it is ISLES'26's, and so are the outputs."""
    source = write_platform(tmp_path / "input", T1)
    output = tmp_path / "out"
    assert run(cli, source, output, weights, "--task", "isles26").code == 0
    assert files_below(output) == [f"{MAP}/output.mha", f"{MASK}/output.mha"]


def test_input_may_be_a_symlink(cli: Cli, tmp_path: Path, weights: Path) -> None:
    write_platform(tmp_path / "real", isles22(), "socket")
    (tmp_path / "input").symlink_to(tmp_path / "real")
    done = cli(
        "run", "--input", tmp_path / "input", "--output", tmp_path / "out", "--weights", weights, "--device", "cpu"
    )
    assert done.code == 0, done.err
    assert f"{MASK}/dwi-brain-mri-0001.mha" in files_below(tmp_path / "out")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_other_endings_for_local_use(cli: Cli, tmp_path: Path, weights: Path, suffix: str) -> None:
    source = write_platform(tmp_path / "input", isles22())
    for path in source.rglob("*.mha"):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_suffix("")) + suffix)
        path.unlink()
    assert (
        cli("run", "--input", source, "--output", tmp_path / "out", "--weights", weights, "--device", "cpu").code == 0
    )
    assert files_below(tmp_path / "out") == [f"{MASK}/dwi-brain-mri-0001.mha", "results.json"]


def test_what_file_browsers_leave_behind_is_no_socket(cli: Cli, tmp_path: Path, weights: Path) -> None:
    source = write_platform(tmp_path / "input", isles22())
    (source / "images" / ".ipynb_checkpoints").mkdir()
    (source / "images" / "dwi-brain-mri" / "._dwi-brain-mri-0001.mha").write_bytes(b"Mac OS X")
    done = cli("run", "--input", source, "--output", tmp_path / "out", "--weights", weights, "--device", "cpu")
    assert done.code == 0, done.err


def test_json_inputs_that_are_null_or_broken_are_no_reason_to_fail(tmp_path: Path) -> None:
    source = write_platform(tmp_path / "input", T1, "socket", "stroke-metadata.json")
    case = read_case(read_inputs(source), TASKS["isles26"])
    assert case.metadata == {"stroke-metadata": {}}
    (source / "stroke-metadata.json").write_text('{"CENTER": null, "DAYS_POST_STROKE": 12}')
    case = read_case(read_inputs(source), TASKS["isles26"])
    assert case.metadata == {"stroke-metadata": {"CENTER": None, "DAYS_POST_STROKE": 12}}
    (source / "stroke-metadata.json").write_text("{")
    assert read_case(read_inputs(source), TASKS["isles26"]).metadata == {}


def test_the_bundled_case_is_isles22() -> None:
    source = Path(__file__).parent / "input"
    assert is_platform_folder(source)
    assert choose_task(read_inputs(source)).name == "isles22"
    case = read_case(read_inputs(source), TASKS["isles22"])
    assert set(case.channels) == {"dwi", "adc", "flair"}
    assert len(case.metadata) == 3


@pytest.mark.parametrize("slug", ["brain-mri", "chest-ct"])
def test_sockets_of_no_task_are_listed(tmp_path: Path, slug: str) -> None:
    source = write_platform(tmp_path / "input", {slug: Volume(LESION, GRID)}, "socket")
    with pytest.raises(InputError) as error:
        choose_task(read_inputs(source))
    assert slug in str(error.value)
    assert "isles22: dwi-brain-mri, adc-brain-mri" in str(error.value)
    assert str(error.value).endswith("give --task")


def test_a_failed_second_output_takes_the_first_away(cli: Cli, tmp_path: Path, weights: Path) -> None:
    source = write_platform(tmp_path / "input", T1, "socket", "stroke-metadata.json")
    output = tmp_path / "out"
    (output / "images").mkdir(parents=True)
    (output / "images" / "lesion-probability-map").write_text("a file where a folder should be")
    done = run(cli, source, output, weights)
    assert done.code == 5
    assert "lesion-probability-map/output.mha: expected to write the image" in done.err
    assert files_below(output) == ["images/lesion-probability-map"]


def item(slug: str, path: str, key: str = "socket") -> dict[str, object]:
    return {key: {"slug": slug, "relative_path": path}}


DWI, ADC_ITEM = item("dwi-brain-mri", "images/dwi-brain-mri"), item("adc-brain-mri", "images/adc-brain-mri")
AMBIGUOUS = {
    "twice": json.dumps([DWI, ADC_ITEM, item("dwi-brain-mri", "images/adc-brain-mri")]),
    "twice, in other capitals": json.dumps([DWI, ADC_ITEM, item("DWI-Brain-MRI", "images/flair-brain-mri")]),
    "twice, the same": json.dumps([DWI, DWI, ADC_ITEM]),
    "two slugs of one image": json.dumps([DWI, item("adc-brain-mri", "images/dwi-brain-mri")]),
    "socket and interface": json.dumps([{**DWI, **item("adc-brain-mri", "images/dwi-brain-mri", "interface")}]),
    "two paths of one item": json.dumps([ADC_ITEM, {**DWI, **item("dwi-brain-mri", "images/x", "interface")}]),
    "a key twice": json.dumps([DWI, ADC_ITEM]).replace('"slug": "dwi', '"slug": "adc-brain-mri", "slug": "dwi'),
}


@pytest.mark.parametrize("listing", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_a_listing_that_says_two_things_is_refused(tmp_path: Path, listing: str) -> None:
    """The last would be taken: ADC for DWI, without a word."""
    source = write_platform(tmp_path / "input", isles22())
    (source / "inputs.json").write_text(listing)
    with pytest.raises(InputError, match=r"inputs\.json: .*expected (each socket once|an input for each|one |a JSON)"):
        read_case(read_inputs(source), TASKS["isles22"])


def test_two_folders_of_one_socket_are_refused(tmp_path: Path) -> None:
    source = write_platform(tmp_path / "input", isles22())
    (source / "images" / "DWI-brain-mri").mkdir()
    with pytest.raises(InputError, match="expected each socket once, found dwi-brain-mri"):
        read_inputs(source)


def test_an_image_of_no_task_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The platform starts the container without arguments: `--task` cannot be given there."""
    extra = {"generic-overlay": Volume(LESION, GRID)}
    source = write_platform(tmp_path / "input", {**isles22(), **extra}, "socket")
    assert choose_task(read_inputs(source)).name == "isles22"
    assert "generic-overlay: no image of the task isles22; left out" in caplog.text


@pytest.mark.parametrize("images", [{**isles22(), **T1}, {**T1, "non-contrast-ct": Volume(LESION, GRID)}])
def test_images_of_two_tasks_are_not_chosen_between(tmp_path: Path, images: Mapping[str, Volume]) -> None:
    """Nor where those of one are not complete."""
    source = write_platform(tmp_path / "input", images)
    with pytest.raises(
        InputError, match=r"expected the sockets of one task, found those of .* and, of .*; give --task"
    ):
        choose_task(read_inputs(source))


@pytest.mark.parametrize("where", ["output", "images", "mask"])
def test_an_output_that_cannot_be_written_is_said_before_the_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Not after minutes of it: neither are weights loaded."""
    monkeypatch.setattr("segsync.commands.platform.load", lambda *_, **__: pytest.fail("the model was loaded"))
    source, output = write_platform(tmp_path / "input", T1), tmp_path / "out"
    if where == "mask":
        (output / "images" / "tbi-segmentation" / "output.mha").mkdir(parents=True)
    elif where == "images":
        output.mkdir()
        (output / "images").write_text("a file where a folder should be")
    else:
        output.mkdir()

        def full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tempfile.TemporaryFile", full)
    done = run(cli, source, output, tmp_path)
    assert done.code == 5
    found = {"output": "No space left on device", "images": "a file", "mask": "a folder of that name"}[where]
    assert f"output.mha: expected to write the image below {output}" in done.err
    assert f"found {found};" in done.err


# --- networks that read few images, empty masks, cases that fail -----------------------------------------------------


@pytest.mark.parametrize("read", [("tmax",), ("cbf", "cbv", "mtt", "tmax", "cta")], ids=["tmax alone", "five maps"])
def test_the_reference_image_need_not_be_read(cli: Cli, tmp_path: Path, read: tuple[str, ...]) -> None:
    """What ISLES'24's teams uploaded: the mask lies on the CT's grid, which the network does not see."""
    channels = tuple(ChannelSpec(name=name, normalisation=AS_IT_IS) for name in read)
    weights = write_bundle(tmp_path / "isles24", "isles24", channels=channels)
    images = {name: Volume(tissue_of(GRID, 5), GRID) for name in ("non-contrast-ct", *DERIVATIVES)}
    images[f"preprocessed-{read[0]}-map"] = Volume(LESION, GRID)
    done = run(cli, write_platform(tmp_path / "input", images), tmp_path / "out", weights)
    assert done.code == 0, done.err
    mask = sitk.ReadImage(str(tmp_path / "out" / MASK / "output.mha"))
    assert Grid.of(mask) == GRID
    assert np.array_equal(sitk.GetArrayFromImage(mask), LESION)
    source, masks = tmp_path / "input", tmp_path / "masks"
    done = cli("predict", "-i", source, "-o", masks, "--weights", weights, "--report", "--device", "cpu")
    assert done.code == 0, done.err


def test_a_brain_mask_of_ct_blanks_the_maps_outside_it(cli: Cli, tmp_path: Path) -> None:
    """The region model reads the reference, a CT here; the network reads Tmax alone."""
    weights, brain = tmp_path / "weights", ball(GRID, 5.0, (1.0, 0.0, 0.0))
    ct = ChannelSpec(name="ncct", normalisation=Fixed(low=0, high=40, mean=0, std=40))
    write_bundle(weights / "ct-brain", "ct-brain", channels=(ct,))
    tmax = ChannelSpec(name="tmax", normalisation=AS_IT_IS)
    write_bundle(weights / "isles24", "isles24", channels=(tmax,), region_model="ct-brain")
    images = {name: Volume(tissue_of(GRID, 5), GRID) for name in DERIVATIVES}
    everywhere = Volume(0.7 + 0.2 * LESION, GRID)
    images |= {"non-contrast-ct": Volume(-900 + 940 * brain, GRID), "preprocessed-tmax-map": everywhere}
    done = run(cli, write_platform(tmp_path / "input", images), tmp_path / "out", weights)
    assert done.code == 0, done.err
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / MASK / "output.mha"))), brain)


def test_where_nothing_is_segmented_the_probability_map_is_constant(cli: Cli, tmp_path: Path, weights: Path) -> None:
    """ISLES'26 gives 1 for it where nothing is there, and 0 for a map with the least value anywhere."""
    faint = Volume(0.1 + 0.3 * LESION, GRID)
    source = write_platform(tmp_path / "input", {"t1-brain-mri": faint}, None, "stroke-metadata.json")
    assert run(cli, source, tmp_path / "out", weights).code == 0
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / MAP / "output.mha")))
    assert (values.dtype, float(values.min()), float(values.max())) == (np.float32, 0.0, 0.0)


@pytest.mark.parametrize("fault", ["missing", "empty", "cut"])
def test_a_case_that_fails_can_end_in_an_empty_mask(cli: Cli, tmp_path: Path, weights: Path, fault: str) -> None:
    """By choice alone; the log and `results.json` say what failed."""
    source = write_platform(tmp_path / "input", isles22())
    adc = next((source / "images" / "adc-brain-mri").iterdir())
    if fault == "missing":
        adc.unlink()
    elif fault == "cut":
        adc.write_bytes(adc.read_bytes()[:-900])
    else:
        write_image(adc, np.zeros(GRID.size_zyx, np.float32), GRID)
    assert run(cli, source, tmp_path / "out", weights).code == 3
    assert files_below(tmp_path / "out") == []
    done = run(cli, source, tmp_path / "out", weights, "--on-failure", "empty")
    assert done.code == 0, done.err
    assert "the case failed and its mask is empty for that reason" in done.err.replace("\n", " ")
    mask = sitk.ReadImage(str(tmp_path / "out" / MASK / "dwi-brain-mri-0001.mha"))
    assert Grid.of(mask) == GRID
    assert not sitk.GetArrayFromImage(mask).any()
    [item] = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "adc" in item["error_messages"][0]


def test_without_a_grid_or_a_network_there_is_no_empty_mask(cli: Cli, tmp_path: Path, weights: Path) -> None:
    source = write_platform(tmp_path / "input", isles22())
    dwi = next((source / "images" / "dwi-brain-mri").iterdir())
    assert run(cli, source, tmp_path / "out", tmp_path / "none", "--on-failure", "empty").code == 4
    dwi.write_bytes(dwi.read_bytes()[:-900])
    assert run(cli, source, tmp_path / "out", weights, "--on-failure", "empty").code == 3
    assert files_below(tmp_path / "out") == []


def test_in_a_folder_the_report_of_an_empty_mask_says_why(cli: Cli, tmp_path: Path, weights: Path) -> None:
    """The exit code stays that of failed cases."""
    for name, adc in (("a", isles22()["adc-brain-mri"].array), ("b", np.zeros(GRID.size_zyx, np.float32))):
        write_image(tmp_path / "in" / f"{name}_dwi.nii.gz", LESION, GRID)
        write_image(tmp_path / "in" / f"{name}_adc.nii.gz", adc, GRID)
    done = cli(
        "predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "--weights", weights, "--task", "isles22",
        "--report", "--on-failure", "empty", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 7
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "b.nii.gz"))).any()
    report = json.loads((tmp_path / "out" / "b_report.json").read_text())
    assert "the case failed and its mask is empty" in report["warnings"][0]
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz"))).any()


def test_the_server_takes_a_time_budget(cli: Cli, tmp_path: Path) -> None:
    done = cli("serve", "--deadline", "420", "--on-failure", "empty", "--weights", tmp_path, "--port", "0")
    assert done.code == 4  # no weights; the options are known

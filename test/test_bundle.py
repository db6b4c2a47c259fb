"""Weights: opened only when every byte is as promised; each way to be wrong gives one line that names the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import write_bundle, write_weights
from segsync.bundle import (
    MANIFEST_FILE,
    MAX_OPSET,
    MODEL_FILE,
    SPEC_FILE,
    load_bundle,
    load_manifest,
    verify_files,
    write_manifest,
)
from segsync.errors import WeightsError
from segsync.predict import find_weights


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_whole_folder_is_loaded(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "aims-tbi", "aims-tbi", spacing_zyx=(2.0, 1.0, 1.5)), "aims-tbi")
    assert bundle.model == tmp_path / "aims-tbi" / MODEL_FILE
    assert bundle.spec.spacing_zyx == (2.0, 1.0, 1.5)
    assert [channel.name for channel in bundle.spec.channels] == ["t1"]
    assert bundle.spec.mirror_axes == (2,), "left and right, where the file says nothing else"


def model_missing(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()


def spec_missing(folder: Path) -> None:
    (folder / SPEC_FILE).unlink()


def one_byte(folder: Path) -> None:
    flip_byte(folder / MODEL_FILE)


def cut_model(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes((folder / MODEL_FILE).read_bytes()[:-1])


def other_task(folder: Path) -> None:
    edit(folder / SPEC_FILE, task="isles26")


def newer_opset(folder: Path) -> None:
    edit(folder / SPEC_FILE, opset=MAX_OPSET + 1)


def no_json(folder: Path) -> None:
    (folder / SPEC_FILE).write_text("{")


def unknown_field(folder: Path) -> None:
    edit(folder / SPEC_FILE, colour="blue")


def newer_format(folder: Path) -> None:
    edit(folder / SPEC_FILE, format=2)


def odd_patch(folder: Path) -> None:
    edit(folder / SPEC_FILE, patch_zyx=[16, 16, 18])


def no_spacing(folder: Path) -> None:
    edit(folder / SPEC_FILE, spacing_zyx=[1.0, 0.0, 1.0])


def unknown_normalisation(folder: Path) -> None:
    edit(folder / SPEC_FILE, channels=[{"name": "t1", "normalisation": {"kind": "histogram"}}])


def all_foreground(folder: Path) -> None:
    edit(folder / SPEC_FILE, threshold=0.0)


def no_foreground(folder: Path) -> None:
    edit(folder / SPEC_FILE, threshold=1.0)


def negative_component(folder: Path) -> None:
    edit(folder / SPEC_FILE, min_component_ml=-0.1)


def spec_changes(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        edit(folder / SPEC_FILE, **changes)

    return spoil


def normalised(**settings: object) -> Callable[[Path], None]:
    return spec_changes(channels=[{"name": "t1", "normalisation": settings}])


def optional_reference(folder: Path) -> None:
    edit(folder / SPEC_FILE, channels=[{"name": "t1", "normalisation": {"kind": "zscore"}, "optional": True}])


BAD: list[tuple[Callable[[Path], None], str, str]] = [
    (model_missing, MODEL_FILE, "found no such file"),
    (spec_missing, SPEC_FILE, "cannot be read"),
    (one_byte, MODEL_FILE, "the file is altered"),
    (cut_model, MODEL_FILE, "the file is altered"),
    (other_task, "", "expected weights for the task 'aims-tbi', found 'isles26'"),
    (newer_opset, MODEL_FILE, f"expected opset {MAX_OPSET} or older, found {MAX_OPSET + 1}"),
    (no_json, SPEC_FILE, "export the model again"),
    (unknown_field, SPEC_FILE, "colour"),
    (newer_format, SPEC_FILE, "format"),
    (odd_patch, SPEC_FILE, "is not a multiple of multiple_zyx"),
    (no_spacing, SPEC_FILE, "spacing_zyx"),
    (unknown_normalisation, SPEC_FILE, "normalisation"),
    (all_foreground, SPEC_FILE, "threshold"),
    (no_foreground, SPEC_FILE, "threshold"),
    (negative_component, SPEC_FILE, "min_component_ml"),
    (optional_reference, SPEC_FILE, "reference 't1' is not among the images that are always there"),
]

#: Values that are well-formed and yet end in a crash, an endless run or an empty mask.
OUT_OF_BOUNDS = [
    (spec_changes(spacing_zyx=[1e-300] * 3), "spacing_zyx"),
    (spec_changes(spacing_zyx=[1.0, 1e308, 1.0]), "spacing_zyx"),
    (spec_changes(spacing_zyx=[1.0, float("inf"), 1.0]), "spacing_zyx"),
    (spec_changes(spacing_zyx=[1.0, float("nan"), 1.0]), "spacing_zyx"),
    (spec_changes(labels={"300": "lesion"}), "labels"),
    (spec_changes(labels={"1": "rim/core", "2": "rim-core"}), "labels ['rim-core', 'rim-core'] are not each"),
    (spec_changes(mirror_axes=[2] * 22), "mirror_axes"),
    (spec_changes(patch_zyx=[2**20] * 3, multiple_zyx=[4] * 3), "patch_zyx"),
    (spec_changes(min_component_ml=float("inf")), "min_component_ml"),
    (spec_changes(threshold=float("nan")), "threshold"),
    (spec_changes(region_model="../../elsewhere"), "region_model"),
    (spec_changes(region_model=".."), "region_model"),
    (normalised(kind="zscore", percentiles=[-5, 200]), "percentiles"),
    (normalised(kind="zscore", percentiles=[99, 1]), "percentiles (99.0, 1.0) are not the lower first"),
    (normalised(kind="fixed", low=80, high=0, mean=0, std=1), "low 80 is not below high 0"),
    (normalised(kind="fixed", low=0, high=float("inf"), mean=0, std=1), "high"),
    (normalised(kind="fixed", low=0, high=1, mean=0, std=float("inf")), "std"),
    (spec_changes(channels=[{"name": "t1", "normalisation": {"kind": "zscore"}}] * 2), "channels ['t1', 't1']"),
]
BAD += [(spoil, SPEC_FILE, said) for spoil, said in OUT_OF_BOUNDS]


@pytest.mark.parametrize(("spoil", "file", "said"), BAD, ids=[f"{spoil.__name__}-{said}" for spoil, _, said in BAD])
def test_wrong_weights_give_one_line(tmp_path: Path, spoil: Callable[[Path], None], file: str, said: str) -> None:
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi")
    spoil(folder)
    with pytest.raises(WeightsError) as error:
        load_bundle(folder, "aims-tbi")
    message = str(error.value)
    assert message.startswith(str(folder / file))
    assert said in message
    assert "\n" not in message
    assert error.value.exit_code == 4


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none: no folder with model\.onnx"):
        load_bundle(tmp_path / "none")


# --- manifest --------------------------------------------------------------------------------------------------------


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights")
    (weights / "isles22" / "MODEL_CARD.md").write_text("# copy")
    tasks = load_manifest(write_manifest(weights)).tasks
    assert set(tasks) == {"isles22", "isles24", "aims-tbi", "isles26"}
    assert set(tasks["isles22"].files) == {MODEL_FILE, SPEC_FILE, "MODEL_CARD.md"}
    for name, entry in tasks.items():
        verify_files(weights / name, entry)


@pytest.mark.parametrize("name", [MODEL_FILE, SPEC_FILE])
def test_a_file_that_is_not_the_manifests_is_refused(tmp_path: Path, name: str) -> None:
    """Also a `model.json` that was changed: it decides on the mask as much as the network does."""
    weights = write_weights(tmp_path / "weights")
    if name == SPEC_FILE:
        edit(weights / "aims-tbi" / name, threshold=0.9)
    else:
        flip_byte(weights / "aims-tbi" / name)
    with pytest.raises(WeightsError, match=rf"aims-tbi/{name}: expected sha256 \w+, found \w+; the file is altered"):
        load_bundle(weights / "aims-tbi")
    load_bundle(weights / "isles22")


def test_a_file_that_the_manifest_lists_must_be_there(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights")
    entry = load_manifest(weights / MANIFEST_FILE).tasks["isles22"]
    (weights / "isles22" / MODEL_FILE).unlink()
    with pytest.raises(WeightsError, match=r"isles22/model\.onnx: listed in manifest\.json, found no such file"):
        verify_files(weights / "isles22", entry)


# --- where weights are looked for ------------------------------------------------------------------------------------


def test_a_folder_of_tasks_or_one_tasks_folder(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights")
    assert find_weights("isles26", weights) == weights / "isles26"
    assert find_weights("isles26", weights / "isles26") == weights / "isles26"
    assert find_weights("isles26", tmp_path) == weights / "isles26"  # packed with its own name
    with pytest.raises(WeightsError, match=r"no weights for the task heart in one of .*; give"):
        find_weights("heart", tmp_path)


def test_the_manifest_counts_from_within_the_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--weights .`: of a dot neither name nor parent lead to the manifest."""
    folder = write_weights(tmp_path / "weights") / "isles26"
    monkeypatch.chdir(folder)
    load_bundle(Path())
    spec = (folder / "model.json").read_text()
    (folder / "model.json").write_text(spec.replace('"threshold":', '"threshold" :'))
    with pytest.raises(WeightsError, match="the file is altered"):
        load_bundle(Path())


def test_uploaded_weights_come_before_the_images_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = (tmp_path / "uploaded", tmp_path / "image")
    monkeypatch.setattr("segsync.predict.WEIGHTS_PLACES", places)
    write_bundle(places[1] / "isles22", "isles22")
    assert find_weights("isles22") == places[1] / "isles22"
    write_bundle(places[0] / "isles22", "isles22")
    assert find_weights("isles22") == places[0] / "isles22"

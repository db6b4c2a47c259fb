"""A pretraining's volumes from several data sets: whose images are taken under which name, and no label map is."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dataset_trees import GRID, TREES, build, put
from pretrain_cases import pretrain_config
from segsync.errors import InputError
from segsync.images import read
from segsync_train.config.settings import load_settings
from segsync_train.data.label_maps import is_label_map
from segsync_train.runs.devices import Processes
from segsync_train.ssl.config import FolderVolumes, PretrainConfig
from segsync_train.ssl.volumes import VolumeFiles, Volumes, find_volumes, open_volumes
from segsync_train.trainer.pretrain import pretrain

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
RECIPES = sorted(CONFIGS.glob("pretrain-paper-*.yaml"))
IMAGE = {"name": "image", "normalisation": {"kind": "zscore"}}
HU = {"kind": "fixed", "low": -200, "high": 800, "mean": 200, "std": 250}


def pretraining(*folders: dict[str, Any], **changes: Any) -> PretrainConfig:
    """A run of one channel, `image`, on these folders."""
    channels = changes.pop("channels", [IMAGE])
    data = {"kind": "folder", "folders": folders}
    return pretrain_config(Path(), data=data, channels=channels, spacing_zyx=[3, 1, 1], **changes)


def found(config: PretrainConfig) -> list[VolumeFiles]:
    assert isinstance(config.data, FolderVolumes)
    return find_volumes(config.data, config.channels)


def cases_of(volumes: Volumes) -> dict[str, npt.NDArray[np.float32]]:
    """Every volume's image by its name."""
    training = [volumes.source.case(step, 0, 1) for step in range(20)]
    return {case.name: np.asarray(case.image) for case in (*training, *volumes.held_out)}


# Names of channels


def test_ct_and_mri_under_different_names_are_one_set(tmp_path: Path) -> None:
    cas, mr = build(TREES["imagecas"], tmp_path / "cas"), build(TREES["hvsmr2"], tmp_path / "mr")
    config = pretraining(
        {"folder": cas, "layout": "imagecas", "channels": {"image": "cta"}},
        {"folder": mr, "layout": "hvsmr2", "channels": {"image": "mr"}},
    )
    assert {file.name: file.images["image"].name for file in found(config)} == {
        "1": "1.img.nii.gz",
        "201": "201.img.nii.gz",
        "pat0": "pat0_cropped.nii.gz",
        "pat59": "pat59_cropped.nii.gz",
    }
    assert len(cases_of(open_volumes(config, tmp_path / "run", Processes()))) == 4


def test_images_of_one_head_are_volumes_of_their_own_and_cases_without_one_are_passed_over(tmp_path: Path) -> None:
    folder = build(TREES["isles22"], tmp_path / "set")
    parts = [{"folder": folder, "layout": "isles22", "channels": {"image": name}} for name in ("adc", "flair")]
    files = found(pretraining(*parts))
    assert [file.images["image"].name.split("_")[-1] for file in files] == [
        "adc.nii.gz",
        "adc.nii.gz",
        "FLAIR.nii.gz",
    ]
    assert files[0].name == files[2].name


@pytest.mark.parametrize("described", [True, False], ids=["by dataset.json", "by number"])
def test_one_channel_of_several_in_nnunets_format(described: bool, tmp_path: Path) -> None:
    for number in (0, 1):
        put(tmp_path / "imagesTr" / f"a_000{number}.nii.gz", np.ones(GRID.size_zyx, np.float32))
    if described:
        (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "T2"}}))
    name = "T2" if described else "0001"
    part = {"folder": tmp_path, "layout": "nnunet"}
    (file,) = found(pretraining({**part, "channels": {"image": name}}))
    assert file.images["image"].name == "a_0001.nii.gz"
    with pytest.raises(
        InputError, match=r"expected channels among \w+, \w+, found 'T3'; correct data.folders.channels"
    ):
        found(pretraining({**part, "channels": {"image": "T3"}}))


def test_channels_that_do_not_exist_are_told(tmp_path: Path) -> None:
    folder = build(TREES["imagecas"], tmp_path / "set")
    with pytest.raises(InputError, match="imagecas: expected channels among cta, found 'ct'"):
        found(pretraining({"folder": folder, "layout": "imagecas", "channels": {"image": "ct"}}))
    with pytest.raises(ValueError, match=r"expected a channel of the model \(image\), found 'ct'"):
        pretraining({"folder": folder, "layout": "imagecas", "channels": {"ct": "cta"}})
    with pytest.raises(ValueError, match="channels: expected none for the layout 'files'"):
        pretraining({"folder": folder, "channels": {"image": "cta"}})


# Normalisation


def test_each_folder_is_normalised_as_it_says(tmp_path: Path) -> None:
    """HU by their window, with soft tissue in it; MRI by its own mean. A cache holds both without mixing them."""
    rng = np.random.default_rng(0)
    for number in range(2):
        hu = np.where(rng.random(GRID.size_zyx) < 0.5, -1000, 40 + rng.standard_normal(GRID.size_zyx))
        put(tmp_path / "ct" / f"ct{number}.nii.gz", hu.astype(np.float32))
        put(tmp_path / "mr" / f"mr{number}.nii.gz", (500 + 50 * rng.standard_normal(GRID.size_zyx)).astype(np.float32))
    config = pretraining({"folder": tmp_path / "ct", "normalisation": HU}, {"folder": tmp_path / "mr"})
    volumes = cases_of(open_volumes(config, tmp_path / "run", Processes()))
    for number in range(2):
        ct = volumes[f"ct{number}"]
        assert ct.min() == pytest.approx(-400 / 250)
        assert ct.max() == pytest.approx((40 - 200) / 250, abs=0.02)
        assert float(volumes[f"mr{number}"].mean()) == pytest.approx(0, abs=0.01)


# Label maps among the images


def test_label_maps_are_left_out_of_a_folder_of_files_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sets"
    names = ("imagecas", "totalsegmentator", "mmwhs-ct")
    for name in names:
        build(TREES[name], folder / name)
    put(folder / "totalsegmentator" / "s0000" / "segmentations" / "liver.nii.gz", np.zeros(GRID.size_zyx, np.uint8))
    images = {
        path
        for name in names
        for case in TREES[name].images.values()
        for path in (f"{name}/{p}" for p in case.values())
    }
    others = {"mmwhs-ct/mr_train/mr_train_1001_image.nii.gz"}
    config = pretraining({"folder": folder}, held_out={"fraction": 0.5, "every": 3}, steps=40)
    with caplog.at_level(logging.WARNING):
        first = cases_of(open_volumes(config, tmp_path / "run", Processes()))
    names_of = {path.removesuffix(".nii.gz").replace("/", "-") for path in images | others}
    # The miniature calls one of its `others` a label; it is written as noise.
    assert set(first) == names_of | {"mmwhs-ct-mr_train-mr_train_1001_label"}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(
        f"9 of 18 images are label maps or empty and are left out ({folder}/imagecas/1-200/1.label"
    )

    def read_again(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("segsync_train.data.label_maps.read", read_again)
    assert set(cases_of(open_volumes(config, tmp_path / "run", Processes()))) == set(first)
    put(folder / "imagecas" / "1-200" / "1.label.nii.gz", np.ones((4, 5, 6), np.float32))
    with pytest.raises(AssertionError, match="read again"):
        open_volumes(config, tmp_path / "run", Processes())


def regions(values: list[int]) -> npt.NDArray[np.int16]:
    """Blocks of these values in a background of 0."""
    label = np.zeros((12, 24, 24), np.int16)
    for number, value in enumerate(values):
        at = 4 * number
        label[2:10, at % 24 : at % 24 + 4, 4 * (at // 24) : 4 * (at // 24) + 4] = value
    return label


def noisy(levels: int) -> npt.NDArray[np.int16]:
    """A smooth image in noise, of so many grey values."""
    z, y, x = np.indices((24, 24, 24))
    image = np.sin(z / 7) + np.cos(y / 9) + np.sin(x / 5) + 0.3 * np.random.default_rng(0).standard_normal(z.shape)
    scaled = (image - image.min()) / np.ptp(image) * (levels - 1e-6)
    levelled: npt.NDArray[np.int16] = np.floor(scaled).astype(np.int16)
    return levelled


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (regions([1]), True),
        (regions([205, 420, 500, 550, 600, 820, 850]).astype(np.float32), True),
        (regions(list(range(1, 31))), True),
        (regions([]), True),
        (np.eye(9, dtype=np.uint8).reshape(1, 9, 9).repeat(2, 0), True),
        (regions([1]) * 0.5, False),
        (noisy(2000), False),
        (noisy(256).astype(np.uint8), False),
        (noisy(8).astype(np.uint8), False),
        (np.where(regions([1]) > 0, np.nan, 0.0), False),
    ],
    ids=["mask", "whole heart", "thirty labels", "empty", "a line", "halves", "CT", "8 bits", "3 bits", "NaN"],
)
def test_what_a_label_map_is(array: npt.NDArray[np.generic], expected: bool) -> None:
    assert is_label_map(array) is expected


def test_ct_with_large_areas_of_one_value_is_an_image() -> None:
    """A leg in a field of view that is half padding, half air at the lowest value: few voxels are neither."""
    ct = np.full((8, 64, 64), -2048, np.int16)
    ct[:, :, 20:] = -1024
    ct[:, 20:36, 30:46] = (40 + 60 * np.random.default_rng(0).standard_normal((8, 16, 16))).astype(np.int16)
    assert not is_label_map(ct)


def test_real_images_and_label_maps_are_told_apart(shared_data: Path) -> None:
    images = sorted((shared_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[::13]
    labels = [
        *sorted((shared_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[::13],
        *sorted((shared_data / "brain-label-maps").glob("*.nii.gz"))[:2],
        *sorted((shared_data / "lesion-masks-soop").rglob("*.nii.gz"))[:4],
    ]
    assert [path for path in images if is_label_map(read(path).array)] == []
    assert [path for path in labels if not is_label_map(read(path).array)] == []


# The paper's pretraining sets

#: Brings a recipe to the size of a miniature: nothing that says how its data are read.
SMALL = (
    "patch_zyx=[8, 8, 8]",
    "network={preset: tiny, overrides: {widths: [4, 8], strides_zyx: [[1, 1, 1], [2, 2, 2]], vil_stages: [1]}}",
    "head={hidden: 16, bottleneck: 8, prototypes: 16}",
    "steps=1",
    "workers=0",
    "device=cpu",
)
#: Volumes of each layout in the miniatures.
SETS = {
    "pretrain-paper-heart": {
        "asoca": 3, "imagecas": 2, "imagetbad": 2, "totalsegmentator": 2, "mmwhs-ct": 1, "mmwhs-mr": 1, "files": 2,
    },
    "pretrain-paper-brain": {"isles22": 5, "isles15": 12, "isles16": 2, "isles18": 2, "atlas12": 3, "atlas20": 2},
}  # fmt: skip
#: The sets whose folders in the recipe are parts of one: those with labels are left out.
PARTS = {"MM-WHS": "mmwhs-ct", "WHSpp": "whspp-ct"}
#: Images of MRI whose labels are held back; the miniatures have none.
HELD_BACK = ("MM-WHS/mr_test/mr_test_2001_image.nii.gz", "WHSpp/mr_val/Case5001_image.nii.gz")


def paper_set(path: Path, folder: Path) -> PretrainConfig:
    """A recipe on the miniatures of its sets, which are written below the folder."""
    config = load_settings(PretrainConfig, path, SMALL)
    assert isinstance(config.data, FolderVolumes)
    places = [part.folder.relative_to("data") for part in config.data.folders]
    sets = {
        place.parts[0]: PARTS.get(place.parts[0], part.layout)
        for place, part in zip(places, config.data.folders, strict=True)
    }
    for name, layout in sets.items():
        build(TREES[layout], folder / name)
    for name in HELD_BACK:
        if name.split("/")[0] in sets:
            put(folder / name, (100 + np.random.default_rng(1).standard_normal(GRID.size_zyx)).astype(np.float32))
    parts = [
        part.model_copy(update={"folder": folder / place})
        for place, part in zip(places, config.data.folders, strict=True)
    ]
    return config.model_copy(update={"data": config.data.model_copy(update={"folders": tuple(parts)})})


def test_the_papers_sets_have_the_papers_settings() -> None:
    """Section 2.4: patch 96³, batch 2, Adam at 1e-5, 1000 epochs (of 250 steps); CT has a window, MRI is z-scored."""
    assert {path.stem for path in RECIPES} == set(SETS)
    for path in RECIPES:
        config = load_settings(PretrainConfig, path)
        assert (config.name, config.patch_zyx, config.batch, config.steps) == (path.stem, (96,) * 3, 2, 1000 * 250)
        assert (config.optimiser.kind, config.optimiser.lr, config.layers) == ("adam", 1e-5, "all")
        assert isinstance(config.data, FolderVolumes)
        for part in config.data.folders:
            ct = bool({"ct", "cta", "ncct"} & set(part.channels.values())) or part.folder.name == "ct_val"
            assert (part.normalisation is not None) == ct


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_trains_on_its_sets_in_miniature(path: Path, tmp_path: Path) -> None:
    """Section 2.1 says which sets; of MM-WHS and WHS++ those alone whose labels are held back."""
    config = paper_set(path, tmp_path / "data")
    files = found(config)
    assert Counter(file.part.layout for file in files) == SETS[path.stem]
    assert [file.name for file in files if "train" in file.images["image"].name] == []
    assert pretrain(config, tmp_path / "run").finished
    assert load_settings(PretrainConfig, tmp_path / "run" / "config.yaml") == config


def test_the_documentation_names_the_papers_sets() -> None:
    text = (CONFIGS.parents[1] / "docs" / "datasets.md").read_text()
    assert [path.name for path in RECIPES if path.name not in text] == []

"""`segsync-train plan`: rules by hand-computed fingerprints, refusals, and settings that train unchanged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from builders import grid_of, write_image
from dataset_trees import TREES, build
from segsync.errors import InputError
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings
from segsync_train.networks.build import build_network
from segsync_train.planning.fingerprint import CaseFingerprint, ChannelFingerprint, Fingerprint, Intensities
from segsync_train.planning.memory import parse_memory
from segsync_train.planning.plan import plan
from segsync_train.planning.rules import Wanted, ema_of, make_plan, mirror_axes, target_spacing
from segsync_train.trainer.finetune import finetune
from training_cases import write_cases

HU = Intensities(voxels=100, mean=35.04, sd=8.06, low=-20.0, median=34.0, high=81.2)


def found(
    size: tuple[int, int, int],
    spacings: list[tuple[float, float, float]],
    *,
    channels: tuple[str, ...] = ("mri",),
    cases: int = 20,
    ml: float = 3.0,
) -> Fingerprint:
    """A set whose cases have these spacings in turn."""
    return Fingerprint(
        folder="/data/set",
        layout="nnunet",
        group="subject",
        channels={name: ChannelFingerprint(cases=cases, labelled=HU, tissue=HU) for name in channels},
        labels={1: "lesion"},
        cases={
            f"c{number}": CaseFingerprint(
                group=f"c{number}",
                size_zyx=size,
                spacing_zyx=spacings[number % len(spacings)],
                volumes_ml={1: ml},
                components={1: 1},
                volume_ml=ml,
            )
            for number in range(cases)
        },
    )


def wanted(memory: str = "11GB", kind: str = "gpu", **changes: Any) -> Wanted:
    return Wanted("lesions", kind, parse_memory(memory), memory, **changes)


def test_the_spacing_is_the_median_and_finer_across_thick_slices() -> None:
    """Ten slices of 3 to 12 mm: the tenth percentile of their distance, never finer than within the slice."""
    even = found((100, 100, 100), [(1, 1, 1), (1.2, 1, 1), (1.4, 1, 1)], cases=3)
    assert target_spacing(even)[0] == (1.2, 1.0, 1.0)
    thick = [(float(mm), 1.0, 1.0) for mm in range(2, 13)]
    assert target_spacing(found((10, 200, 200), thick, cases=11))[0] == (3.0, 1.0, 1.0)
    # As many slices as columns: spacings differ, but nothing is anisotropic about the image.
    assert target_spacing(found((200, 200, 200), thick, cases=11))[0] == (7.0, 1.0, 1.0)


def test_the_plan_of_the_hippocampus_is_nnunets() -> None:
    """nnU-Net v2 plans its 3d_fullres configuration for this task with patch 40 × 56 × 40 and batch 9."""
    made = make_plan(found((36, 50, 35), [(1, 1, 1)], cases=260), wanted())
    assert made.config.patch_zyx == (40, 56, 40)
    assert made.config.batch == 9


def test_less_memory_gives_a_smaller_patch_and_none_is_one_clear_line() -> None:
    large = found((200, 250, 250), [(1, 1, 1)])
    roomy, tight = (make_plan(large, wanted(memory, network="tiny")).config for memory in ("11GB", "2GB"))
    assert np.prod(tight.patch_zyx) < np.prod(roomy.patch_zyx)
    assert tight.batch == roomy.batch == 2
    with pytest.raises(InputError, match=r"--memory: expected at least 1\.\d GB, .* found 0.5GB; give more, or"):
        make_plan(large, wanted("0.5GB", network="tiny"))


def test_thick_slices_are_halved_later() -> None:
    """Slices of 5 mm over pixels of 1 mm: the first strides are 1 across the slices, and the patch is flat."""
    made = make_plan(found((24, 200, 200), [(5, 1, 1)]), wanted(network="tiny"))
    strides = made.config.network.overrides["strides_zyx"]
    assert strides[1] == strides[2] == [1, 2, 2]
    assert made.config.patch_zyx[0] < made.config.patch_zyx[1] / 3


@pytest.mark.parametrize("network", ["resenc-m", "resenc-l", "plainconv", "published-enc", "published-bot"])
def test_nnunets_and_the_published_networks_are_planned_too(network: str) -> None:
    """The settings build the network, and it takes their patch."""
    config = make_plan(found((40, 96, 96), [(2, 1, 1)]), wanted("24GB", network=network)).config
    assert config.network.preset == network
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = build_network(config).eval()(torch.empty(1, 1, *config.patch_zyx))
    assert logits.shape[2:] == config.patch_zyx


def test_channels_with_a_unit_have_bounds_and_others_their_own_spread() -> None:
    made = make_plan(found((40, 40, 40), [(1, 1, 1)], channels=("ncct", "t1")), wanted("2GB", "cpu"))
    ct, t1 = made.config.channels
    assert ct.normalisation.model_dump() == {"kind": "fixed", "low": -20.0, "high": 81.2, "mean": 35.0, "std": 8.1}
    assert t1.normalisation.kind == "zscore"


def test_labels_of_one_side_are_not_mirrored() -> None:
    assert mirror_axes({1: "Left hippocampus", 2: "right hippocampus"})[0] == []
    assert mirror_axes({1: "infarct of the brain"})[0] == [2]


def test_small_lesions_get_half_of_the_patches() -> None:
    """3 ml in a litre is 0.3 %, 30 ml are 3 %."""
    assert make_plan(found((100, 100, 100), [(1, 1, 1)], ml=3.0), wanted("2GB", "cpu")).config.foreground == 0.5
    assert make_plan(found((100, 100, 100), [(1, 1, 1)], ml=30.0), wanted("2GB", "cpu")).config.foreground == 0.33


@pytest.mark.parametrize("steps", [16, 240, 1000, 4000, 10000])
def test_the_running_mean_forgets_the_untrained_network(steps: int) -> None:
    decay, _ = ema_of(steps)
    assert decay**steps < 0.001
    assert decay <= 0.998


def test_what_is_planned_trains_unchanged(tmp_path: Path) -> None:
    """And its page shows a case, its fingerprint counts what was drawn: one ball of 179 voxels a case."""
    plan(write_cases(tmp_path / "cases", 6), tmp_path / "settings.yaml", memory="2GB", device="cpu", folds=3)
    settings = load_settings(RunConfig, tmp_path / "settings.yaml", ["workers=0", "network.overrides.widths=[4, 8]",
        "network.overrides.strides_zyx=[[1,1,1],[2,2,2]]", "network.overrides.vil_stages=[1]", "steps=2"])  # fmt: skip
    assert (settings.data.folds, settings.labels) == (3, {1: "label 1"})  # type: ignore[union-attr]
    assert finetune(settings, tmp_path / "run").finished
    kept = json.loads((tmp_path / "settings.fingerprint.json").read_text())
    assert kept["cases"]["case0"]["volumes_ml"]["1"] == pytest.approx(0.179)
    assert kept["cases"]["case0"]["components"] == {"1": 1}
    assert kept["channels"]["image"]["labelled"]["mean"] == pytest.approx(180, abs=3)
    page = (tmp_path / "settings.fingerprint.html").read_text()
    assert "What the network will see" in page
    assert page.count("<img ") == 5


def test_atlas_is_planned_for_its_challenge_with_its_centres(tmp_path: Path) -> None:
    folder = build(TREES["atlas30-native"], tmp_path / "set")
    made = plan(folder, tmp_path / "s.yaml", layout="atlas30-native", group="site", memory="2GB", device="cpu")
    assert made.config.task == "isles26"
    assert "kept together: site (2 of them in 3 cases)" in made.reasons["data"]


def test_labels_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    folder = write_cases(tmp_path / "cases", 2)
    for path in (folder / "labelsTr").iterdir():
        write_image(path, np.zeros((16, 16, 16), np.uint8), grid_of((16, 16, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    with pytest.raises(InputError, match=r"expected label maps that hold labels, found 2 empty ones"):
        plan(folder, tmp_path / "s.yaml", memory="2GB", device="cpu")
    assert not list(tmp_path.glob("s.*"))


@pytest.mark.parametrize("text", ["", "many", "-3GB", "0"])
def test_a_memory_that_is_none_is_told(text: str) -> None:
    with pytest.raises(InputError, match=r"--memory: expected gigabytes, as in 11GB, found"):
        parse_memory(text)

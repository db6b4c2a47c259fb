"""ISLES'26 in miniature, by the README's commands: ATLAS as it unpacks → folds → operating point → `segsync run`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders import Cli, dice, grid_of, write_image, write_platform
from segsync.bundle import load_bundle, load_manifest
from segsync.geometry import Volume
from segsync.images import read
from segsync_train.cli import main
from segsync_train.data.splits import read_split

GRID = grid_of((16, 16, 16))
CENTRES = {f"sub-r{centre:03d}s{subject:03d}": f"R{centre:03d}" for centre in (1, 2, 3) for subject in (1, 2)}
#: Brings the planned settings to the size of the miniature.
SMALL = (
    "network.overrides={widths: [4, 8], strides_zyx: [[1, 1, 1], [2, 2, 2]], vil_stages: [1]}",
    "patch_zyx=[8, 8, 8]", "steps=80", "batch=4", "workers=0", "optimiser.lr=0.01", "ema=null", "foreground=0.6",
    "validation={every: 80, overlays: 0}",
)  # fmt: skip


def head(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy head with one bright lesion, and the lesion."""
    rng = np.random.default_rng(number)
    distance = np.linalg.norm(np.indices(GRID.size_zyx) - rng.integers(5, 11, 3)[:, None, None, None], axis=0)
    lesion = (distance < 3.5).astype(np.uint8)
    return (100 + 5 * rng.standard_normal(lesion.shape) + 80 * lesion).astype(np.float32), lesion


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`segsync-train` with these arguments; it ends well."""

    def run(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["segsync-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (None, 0), arguments

    return run


def test_from_the_archive_to_an_uploaded_algorithm(train: Callable[..., None], cli: Cli, tmp_path: Path) -> None:
    cases, settings, folds = tmp_path / "ATLAS3", tmp_path / "settings.yaml", tmp_path / "cv"
    for number, (subject, centre) in enumerate(CENTRES.items()):
        where = cases / f"ATLAS3_Training_Preprocessed/{centre}/{subject}/ses-1/anat"
        stem, (image, lesion) = f"{subject}_ses-1_space-MNI152NLin2009aSym", head(number)
        write_image(where / f"{stem}_desc-brainnorm_T1w.nii.gz", image, GRID)
        write_image(where / f"{stem}_label-lesion_desc-T1lesion_mask.nii.gz", lesion, GRID)
    train("datasets", "atlas30", cases)
    train(
        "plan", cases, "-o", settings, "--layout", "atlas30", "--group", "site", "--memory", "4GB", "--device", "cpu",
        "--folds", 3,
    )  # fmt: skip
    train("crossval", "-c", settings, "-o", folds, *(part for one in SMALL for part in ("--set", one)))
    train("tune", folds, "--rules", "isles26")
    runs = [folds / f"fold-{fold}" for fold in range(3)]
    train("export", *runs, "-o", tmp_path / "weights", "--operating-point", folds)

    for run in runs:
        split = read_split(run / "split.json")
        centres = [{CENTRES[name.partition("_")[0]] for name in names} for names in (split.training, split.validation)]
        assert not centres[0] & centres[1]
    point = json.loads((folds / "operating_point.json").read_text())
    assert (point["rules"], point["cases"]) == ("isles26", 6)
    pooled = {row["metric"]: row for row in csv.DictReader((folds / "pooled.csv").read_text().splitlines())}
    assert int(pooled["pr_auc"]["n"]) == 6
    bundle = load_bundle(tmp_path / "weights" / "isles26", "isles26")
    assert len(bundle.networks) == 3
    assert bundle.spec.threshold == point["threshold"]
    files = load_manifest(tmp_path / "weights" / "manifest.json").tasks["isles26"].files
    assert {"model.onnx", "model-2.onnx", "model-3.onnx"} < files.keys()

    image, lesion = head(100)
    source = write_platform(tmp_path / "input", {"t1-brain-mri": Volume(image, GRID)}, None, "stroke-metadata.json")
    arguments = (
        "--input",
        source,
        "--output",
        tmp_path / "output",
        "--weights",
        tmp_path / "weights",
        "--device",
        "cpu",
    )
    done = cli("run", *arguments)
    assert done.code == 0, done.err
    outputs = tmp_path / "output" / "images"
    mask, likely = (
        read(outputs / socket / "output.mha") for socket in ("stroke-lesion-segmentation", "lesion-probability-map")
    )
    assert mask.grid.same_as(GRID)
    assert dice(mask.array, lesion) > 0.6
    assert 0 <= likely.array.min() < likely.array.max() <= 1
    assert likely.array[lesion > 0].mean() > likely.array[lesion == 0].mean() + 0.3

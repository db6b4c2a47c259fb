"""What comes with the software is found by its name, wherever a command is called from."""

import subprocess
import sys
from pathlib import Path

import pytest

from segsync.errors import InputError, UsageError
from segsync_train.config.recipes import RECIPES, recipe, recipes
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import load_settings

ROOT = Path(__file__).parents[1]


def test_a_recipe_is_found_by_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_path = load_settings(RunConfig, RECIPES / "finetune-fast.yaml")
    assert load_settings(RunConfig, Path("finetune-fast")) == load_settings(RunConfig, Path("finetune-fast.yaml"))
    assert load_settings(RunConfig, Path("finetune-fast")) == by_path
    (tmp_path / "mine.yaml").write_text("base: finetune-fast.yaml\nname: mine\n")
    assert load_settings(RunConfig, Path("mine.yaml")) == by_path.model_copy(update={"name": "mine"})


def test_a_file_of_ones_own_comes_before_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "finetune-fast.yaml").write_text((RECIPES / "finetune-fast.yaml").read_text() + "seed: 17\n")
    assert load_settings(RunConfig, Path("finetune-fast.yaml")).seed == 17
    with pytest.raises(InputError, match=r"elsewhere/finetune-fast\.yaml: expected a settings file"):
        load_settings(RunConfig, Path("elsewhere/finetune-fast.yaml"))


def test_the_shipped_weights_serve_where_the_working_folder_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_settings(RunConfig, Path("aims-tbi")).region_model
    assert shipped is not None
    assert (shipped / "model.json").is_file()
    (tmp_path / "weights" / "brain").mkdir(parents=True)
    assert load_settings(RunConfig, Path("aims-tbi")).region_model == Path("weights/brain")


def test_every_recipe_says_what_it_is_for() -> None:
    assert {f"{name}.yaml" for name in recipes()} == {path.name for path in RECIPES.glob("*.yaml")}
    assert [name for name, about in recipes().items() if len(about) < 20] == []
    with pytest.raises(UsageError, match=r"expected a recipe \(.*isles22.*\), found '\.\./README'"):
        recipe("../README")


def test_the_runtime_is_imported_where_python_has_no_resource_module() -> None:
    """Windows has none."""
    code = "import sys; sys.modules['resource'] = None; import segsync, segsync.cli"
    subprocess.run([sys.executable, "-c", code], check=True)

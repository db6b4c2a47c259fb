"""Readings of the paper: whose encoder is kept, which head, which MSE; what is frozen, and how long."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pretrain_cases import pretrain_config, write_volumes
from segsync.errors import InputError
from segsync_train.config.run import RunConfig, TransferConfig
from segsync_train.config.settings import load_settings
from segsync_train.networks.build import build_network
from segsync_train.networks.xlstm_unet import XLSTMUNet
from segsync_train.runs.checkpoints import load_checkpoint, save_checkpoint
from segsync_train.ssl.build import build_pretext
from segsync_train.ssl.config import PretrainConfig
from segsync_train.ssl.head import PlainHead, ProjectionHead
from segsync_train.ssl.segsync import SegSync
from segsync_train.ssl.terms import output_error
from segsync_train.trainer.finetune import finetune
from segsync_train.trainer.freezing import freeze
from segsync_train.trainer.pretrain import pretrain
from segsync_train.trainer.schedule import Pace
from training_cases import run_config, write_cases

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
PRETRAINING = sorted(CONFIGS.glob("pretrain-reading-*.yaml"))
FINETUNING = sorted(CONFIGS.glob("finetune-reading-*.yaml"))
MINIATURE = "{preset: tiny, overrides: {widths: [4, 8], strides_zyx: [[1, 1, 1], [2, 2, 2]], vil_stages: [1]}}"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("volumes"))


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_a_recipe_for_pretraining_trains_a_step(path: Path, volumes: Path, tmp_path: Path) -> None:
    small = [
        f"data.folders=[{{folder: {volumes}, layout: nnunet, channels: {{image: image}}}}]",
        "patch_zyx=[8, 8, 8]", f"network={MINIATURE}", "steps=1", "workers=0", "device=cpu", "stop_on_collapse=false",
        "held_out.every=1",
    ]  # fmt: skip
    config = load_settings(PretrainConfig, path, small)
    assert config.name == path.stem
    assert pretrain(config, tmp_path / "run").finished


@pytest.mark.parametrize("path", FINETUNING, ids=lambda path: path.stem)
def test_a_recipe_for_fine_tuning_freezes_parts_of_the_papers_network(path: Path) -> None:
    """The names in the recipe are those of the network that it trains."""
    config = load_settings(RunConfig, path)
    with torch.device("meta"):
        network = build_network(config)
    freeze(network, config.transfer, {})
    trained = {name.split(".")[2] for name, p in network.named_parameters() if p.requires_grad and "encoder" in name}
    assert trained == ({"5"} if path.stem == "finetune-reading-bottom-frozen" else set("012345"))


@pytest.mark.parametrize("keep", ["student", "teacher"])
def test_the_encoder_that_is_kept_is_the_one_asked_for(keep: Any, volumes: Path, tmp_path: Path) -> None:
    """And a run that goes on has both: after a resume nothing differs."""
    config = pretrain_config(volumes, keep=keep, teacher={"momentum": 0.5}, steps=2)
    assert pretrain(config, tmp_path / "whole").finished
    answers = iter([True])
    assert not pretrain(config, tmp_path / "run", should_stop=answers.__next__).finished
    assert pretrain(config, tmp_path / "run", resume=True).finished
    whole, run = (load_checkpoint(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("whole", "run"))
    kept, again = whole.part("encoder"), run.part("encoder")
    other = "teacher" if keep == "student" else "student"
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    model = build_pretext(config)
    assert isinstance(model, SegSync)
    assert model.kept == f"{keep}.encoder"
    at = f"{other}.encoder."
    rest = {name.removeprefix(at): t for name, t in whole.part("pretext").items() if name.startswith(at)}
    assert rest.keys() == kept.keys()
    assert any(not torch.equal(rest[name], kept[name]) for name in kept)


def test_a_plain_head_is_an_mlp_whose_outputs_have_any_size() -> None:
    """Eqs. 7 and 8: scaled weights give scaled outputs, which cosines do not."""
    torch.manual_seed(0)
    changes = {"head": {"kind": "mlp", "standardise": None, "hidden": 16, "prototypes": 8}}
    model = build_pretext(pretrain_config(Path("unused"), **changes))
    assert isinstance(model, SegSync)
    head = model.student.heads["1"]
    assert isinstance(head, PlainHead)
    vectors = torch.randn(3, 8)
    first, _, last = head
    by_hand = last(nn.functional.gelu(first(vectors)))
    torch.testing.assert_close(head(vectors), by_hand)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(100)
    torch.testing.assert_close(head(vectors), 100 * by_hand)
    assert isinstance(model.standardise["1"], nn.Identity)
    assert isinstance(build_pretext(pretrain_config(Path("unused"))).get_submodule("student.heads.1"), ProjectionHead)


def test_the_mse_of_outputs_by_hand() -> None:
    z, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert output_error(z, teacher).item() == pytest.approx((4 + 1) / 4)


def test_outputs_that_agree_cost_nothing_and_weights_are_weights() -> None:
    """Student and teacher are the same at first: views that are the same have the same outputs."""
    objective = {"cross_entropy": 0.0, "squared_error": 0.0, "output_error": 1.0}
    view, other = torch.randn(2, 1, 8, 8, 8), torch.randn(2, 1, 8, 8, 8)
    losses = []
    for weight in (1.0, 2.0):
        torch.manual_seed(0)
        model = build_pretext(pretrain_config(Path("unused"), objective={**objective, "output_error": weight}))
        assert model(view, view, 0.04).loss.item() == pytest.approx(0.0, abs=1e-9)
        losses.append(model(view, other, 0.04).loss.item())
    assert losses[0] > 0
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-4)


def frozen_run(cases: Path, folder: Path, **changes: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights that a fine-tuning inherits, and those that it ends with."""
    config = run_config(cases)
    network = build_network(config)
    path = folder / "pretrained.safetensors"
    made = {"kind": "finetune", "step": 1, "hours": 0.1, "config": config.model_dump(mode="json")}
    save_checkpoint(path, {f"network/{name}": tensor for name, tensor in network.state_dict().items()}, made)
    transfer = {"mode": "network", "checkpoint": str(path), **changes}
    finetune(run_config(cases, transfer=transfer, ema=None), folder / "run")
    return network.state_dict(), load_checkpoint(folder / "run" / "checkpoints" / "last.safetensors").part("network")


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_frozen_part_stays_as_it_was_and_the_rest_learns(cases: Path, tmp_path: Path) -> None:
    before, after = frozen_run(cases, tmp_path, freeze=["encoder.stages.0"])
    moved = changed(before, after)
    assert not any(name.startswith("encoder.stages.0.") for name in moved)
    assert {name.split(".")[0] for name in moved} == {"encoder", "decoder"}


@pytest.mark.parametrize(("steps", "learns"), [(6, False), (5, True)])
def test_a_part_that_is_frozen_for_some_steps_learns_after_them(
    steps: int, learns: bool, cases: Path, tmp_path: Path
) -> None:
    """Of six steps; the checkpoint's are the last ones."""
    before, after = frozen_run(cases, tmp_path, freeze=["encoder"], freeze_steps=steps)
    moved = changed(before, after)
    assert any(name.startswith("encoder.") for name in moved) == learns
    assert any(name.startswith("decoder.") for name in moved)


def test_a_pace_rises_after_its_start() -> None:
    pace = Pace(0.5, start=2, warmup=4)
    assert [pace.at(step) for step in range(8)] == [0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert Pace().at(0) == 1.0


def test_the_warm_up_is_of_what_is_inherited_alone(cases: Path) -> None:
    network = build_network(run_config(cases))
    factors = {name: 0.1 for name, _ in network.named_parameters() if name.startswith("encoder.")}
    config = TransferConfig(mode="full", checkpoint=Path("x"), freeze=("encoder",), freeze_steps=3, warmup_steps=2)
    paces = freeze(network, config, factors)
    assert set(paces.values()) == {Pace(0.1, 3, 2)}
    assert paces.keys() == factors.keys()


def test_a_part_that_does_not_exist_is_named_with_the_nearest(cases: Path) -> None:
    network = build_network(run_config(cases))
    assert isinstance(network, XLSTMUNet)
    with pytest.raises(
        InputError, match=r"^transfer\.freeze: .*'encoder\.stage\.0'; did you mean 'encoder\.stages\.0'"
    ):
        freeze(network, TransferConfig(freeze=("encoder.stage.0",)), {})
    with pytest.raises(InputError, match="expected some part to be trained, found encoder, decoder"):
        freeze(network, TransferConfig(freeze=("encoder", "decoder")), {})
    with pytest.raises(InputError, match="freeze_steps: expected the parts"):
        load_settings(RunConfig, CONFIGS / "finetune-fast.yaml", ["transfer.freeze_steps=3"])

"""A run's folder and its checkpoints: whole or absent, exact, and honest about what went wrong."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from segsync.errors import InputError, OutputError, ResourceError, WeightsError
from segsync_train import cli
from segsync_train.config.run import RunConfig
from segsync_train.config.settings import Frozen, load_settings
from segsync_train.config.training import OptimiserConfig
from segsync_train.runs import checkpoints
from segsync_train.runs.checkpoints import load_checkpoint, save_checkpoint
from segsync_train.runs.devices import FLATTEST, memory_of_training, training_amp_dtype
from segsync_train.runs.folder import RunFolder, read_log, settings_of
from segsync_train.runs.progress import StepProgress, duration
from segsync_train.trainer.schedule import Pace, learning_rate, make_optimiser, set_learning_rate
from training_cases import run_config, run_settings


class Note(Frozen):
    seed: int = 0


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path: Path) -> None:
    tensors = {"network/a": torch.randn(3, 4), "ema/a": torch.ones(2).half(), "network/n": torch.tensor(7)}
    state = {"step": 12, "lr": 0.1 + 0.2, "scaler": {}, "nested": [1, None, "x"]}
    save_checkpoint(tmp_path / "last.safetensors", tensors, state)
    back = load_checkpoint(tmp_path / "last.safetensors")
    assert back.state == state
    assert set(back.part("network")) == {"a", "n"}
    assert all(torch.equal(back.tensors[name], value) for name, value in tensors.items())


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"network/a": torch.ones(2)}, {"step": 1})

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OutputError, match=r"last\.safetensors: .* a full disk \(\d+ MiB free\)"):
        save_checkpoint(path, {"network/a": torch.zeros(2)}, {"step": 2})
    assert load_checkpoint(path).state["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_cut_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"network/a": torch.ones(1000)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(WeightsError, match="expected a whole checkpoint"):
        load_checkpoint(path)
    torch.save({"a": 1}, path)
    with pytest.raises(WeightsError, match="found a file of torch"):
        load_checkpoint(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="found 'another kind'"):
        load_checkpoint(path)
    with pytest.raises(WeightsError, match="no such file"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_weights_of_another_network_are_refused_by_the_first_difference() -> None:
    network, other = nn.Linear(3, 4), nn.Linear(3, 5)
    with pytest.raises(WeightsError, match=r"bias: expected \(4,\), found \(5,\)"):
        checkpoints.load_network(network, other.state_dict(), Path("x"))
    with pytest.raises(WeightsError, match=r"bias: expected \(4,\), found no such tensor"):
        checkpoints.load_network(network, {"weight": network.weight.detach()}, Path("x"))
    with pytest.raises(WeightsError, match=r"more: expected no such tensor, found \(4,\)"):
        checkpoints.load_network(network, {**network.state_dict(), "more": torch.ones(4)}, Path("x"))


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_an_optimiser_goes_on_as_if_never_stopped(kind: Any, tmp_path: Path) -> None:
    config = OptimiserConfig(kind=kind, lr=0.05, momentum=0.9)

    def step(network: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
        set_learning_rate(optimiser, learning_rate(config, number, 8), number)
        optimiser.zero_grad()
        network(torch.full((2, 3), float(number + 1))).square().mean().backward()
        optimiser.step()

    torch.manual_seed(0)
    straight = nn.Linear(3, 2)
    first = nn.Linear(3, 2)
    first.load_state_dict(straight.state_dict())
    optimiser = make_optimiser(config, straight)
    for number in range(8):
        step(straight, optimiser, number)
    optimiser = make_optimiser(config, first)
    for number in range(4):
        step(first, optimiser, number)
    save_checkpoint(tmp_path / "c", checkpoints.optimiser_tensors(optimiser), {})
    second = nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    optimiser = make_optimiser(config, second)
    checkpoints.load_optimiser(optimiser, load_checkpoint(tmp_path / "c").part("optimiser"))
    for number in range(4, 8):
        step(second, optimiser, number)
    assert torch.equal(second.weight, straight.weight)
    assert torch.equal(second.bias, straight.bias)


def test_the_pretrained_part_learns_at_its_own_rate() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimiser = make_optimiser(OptimiserConfig(lr=1.0), network, {"0.weight": Pace(0.1), "0.bias": Pace(0.1)})
    set_learning_rate(optimiser, 0.5, 0)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    named = dict(network.named_parameters())
    assert {name: rates[id(p)] for name, p in named.items()} == pytest.approx(
        {"0.weight": 0.05, "0.bias": 0.05, "1.weight": 0.5, "1.bias": 0.5}
    )
    assert decay[id(named["1.bias"])] == 0
    assert decay[id(named["1.weight"])] > 0


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        ("cosine", 0, 0.1),
        ("cosine", 9, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 60, 0.505),
        ("cosine", 110, 0.01),
        ("poly", 60, 0.5**0.9),
        ("poly", 110, 0.0),
        ("constant", 60, 1.0),
    ],
)
def test_learning_rates_are_those_derived_by_hand(schedule: Any, step: int, rate: float) -> None:
    config = OptimiserConfig(lr=1.0, warmup_steps=10, schedule=schedule, final=0.01)
    assert learning_rate(config, step, 110) == pytest.approx(rate)


def test_a_run_that_goes_on_forgets_what_it_will_do_again(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        run.create(Note())
        for step in (10, 20, 30):
            run.record(step, {"train/loss": 1.0 / step, "why": "text"})
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 40, "train/lo')  # killed while it wrote
    with RunFolder(tmp_path / "run") as run:
        run.reopen(Note(), 20)
        run.record(25, {"train/loss": 0.5})
    assert [line["step"] for line in read_log(tmp_path / "run")] == [10, 20, 25]
    assert json.loads(log.read_text().splitlines()[0])["why"] == "text"


@pytest.mark.parametrize(("step", "begins_again"), [(10, True), (11, False)])
def test_a_run_that_lost_its_checkpoint_does_not_begin_again_unasked(
    step: int, begins_again: bool, tmp_path: Path
) -> None:
    """Before the first was due there is nothing to lose; after it, days of work may be."""
    with RunFolder(tmp_path / "run") as run:
        run.create(Note())
        run.record(step, {"train/loss": 1.0})
    if begins_again:
        assert RunFolder(tmp_path / "run").newest(10) is None
    else:
        with pytest.raises(WeightsError, match=r"last\.safetensors: expected a checkpoint, found no such file"):
            RunFolder(tmp_path / "run").newest(10)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run that has begun, its settings beside it as `run.yaml`."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_settings(tmp_path / "cases")))
    with RunFolder(tmp_path / "run") as run:
        run.create(run_config(tmp_path / "cases"))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "data.validation=0.5",
            r"run: data\.validation: expected 0\.25, with which the run began, found 0\.5; leave it",
        ),
        ("data.split_seed=1", r"data\.split_seed: expected 0, .* found 1"),
        ("data.labelled=0.5", r"data\.labelled: expected 1\.0"),
        ("data.folder=elsewhere", r"data\.folder: expected .* found 'elsewhere'"),
        ("data={kind: synthetic, sources: x}", r"data\.kind: expected 'folder', .* found 'synthetic'"),
        ("channels.0.name=t2", r"channels\.0\.name: expected 't1', .* found 't2'"),
        ("labels.2=edema", r"labels\.2: expected None, .* found 'edema'"),
        ("spacing_zyx=[2, 1, 1]", r"spacing_zyx\.0: expected 1\.0, .* found 2\.0"),
        ("patch_zyx=[8, 8, 16]", r"patch_zyx\.2: expected 8, .* found 16"),
        ("network.overrides.widths=[4, 12]", r"network\.overrides\.widths\.1: expected 8, .* found 12"),
        ("network.overrides.widths=[4, 8, 8]", r"network\.overrides\.widths: expected \[4, 8\], .* found \[4, 8, 8\]"),
        ("seed=1", r"seed: expected 0, .* found 1"),
        ("optimiser.kind=sgd", r"optimiser\.kind: expected 'adamw'"),
        ("ema=null", r"ema: expected 0\.9, .* found None"),
    ],
)
def test_what_a_run_learns_from_stays_when_it_goes_on(override: str, said: str, begun: Path) -> None:
    settings = load_settings(RunConfig, begun / "config.yaml", [override])
    with pytest.raises(InputError, match=said) as caught:
        RunFolder(begun).check_unchanged(settings)
    assert "\n" not in str(caught.value)


def test_how_long_and_where_a_run_goes_on_may_change(begun: Path) -> None:
    overrides = [
        "steps=9", "validation.every=1", "validation.patience=5", "workers=1", "device=cuda", "amp=off",
        "checkpoint_every=5", "log_every=2", "data.cache=elsewhere", "optimiser.lr=1e-4", "compile=true",
    ]  # fmt: skip
    RunFolder(begun).check_unchanged(settings_of(RunConfig, begun, None, overrides, resume=True))


def test_a_settings_file_beside_resume_must_be_the_runs_own(begun: Path) -> None:
    """The first difference is named with both values and what to do; --set holds for the file and for what is kept."""
    file = begun.parent / "run.yaml"
    assert settings_of(RunConfig, begun, file, [], resume=True) == run_config(begun.parent / "cases")
    assert settings_of(RunConfig, begun, file, ["steps=9"], resume=True).steps == 9
    other = begun.parent / "other.yaml"
    for changes, said in (
        (
            {"steps": 8},
            rf"other\.yaml: steps: expected 6, with which the run in {begun} began, found 8; "
            r"leave --config out, or give --set steps=8",
        ),
        ({"amp": "off"}, "amp: expected 'auto', .* found 'off'; .* --set amp=\"off\""),
        ({"seed": 3, "log_every": 5}, r"seed: expected 0, .* found 3; leave --config out, or start another run for it"),
    ):
        other.write_text(yaml.safe_dump(run_settings(begun.parent / "cases", **changes)))
        with pytest.raises(InputError, match=said) as caught:
            settings_of(RunConfig, begun, other, [], resume=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no run to go on with"):
        settings_of(RunConfig, begun.parent, file, [], resume=True)
    with pytest.raises(InputError, match="give --config FILE"):
        settings_of(RunConfig, begun, None, [], resume=False)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.create(Note(seed=5))
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        RunFolder(tmp_path).create(Note())
    assert (tmp_path / "config.yaml").read_text() == "seed: 5\n"


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/run: expected to write the run"):
        RunFolder(tmp_path / "file" / "run").create(Note())


def test_a_folder_that_is_deleted_while_the_run_trains_ends_it(tmp_path: Path) -> None:
    """Open files take what is written after their names are gone, and a checkpoint would make the folder anew."""
    folder = tmp_path / "run"
    with RunFolder(folder) as run:
        run.create(Note())
        run.record(1, {"train/loss": 0.5})
        shutil.rmtree(folder)
        with pytest.raises(OutputError, match=r"log\.jsonl: expected the log of the run under way, found it deleted"):
            run.record(2, {"train/loss": 0.4})
        with RunFolder(folder) as other:
            other.create(Note(seed=1))
            with pytest.raises(OutputError, match="deleted or replaced"):
                run.record(3, {"train/loss": 0.3})
    assert read_log(folder) == []


def _worker_of_no_memory() -> None:
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


@pytest.mark.parametrize("work", [lambda: torch.empty(2**60, dtype=torch.uint8), _worker_of_no_memory])
def test_memory_that_ends_on_a_cpu_is_said_with_what_was_under_way(work: Callable[[], object]) -> None:
    with (
        pytest.raises(ResourceError, match=r"cpu, step 3: expected more memory, found too little .*; set a smaller"),
        memory_of_training(lambda: "cpu, step 3"),
    ):
        work()


def test_other_errors_of_torch_are_no_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="size"), memory_of_training(lambda: "cpu"):
        torch.ones(2) + torch.ones(3)


def test_memory_that_ends_in_a_command_is_exit_code_6(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greedy() -> None:
        torch.empty(2**60)

    monkeypatch.setattr(cli, "app", greedy)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 6
    assert "expected more memory, found too little" in capsys.readouterr().err


def test_away_from_a_terminal_progress_is_plain_lines_with_time_left(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    with (
        caplog.at_level("INFO"),
        StepProgress("run", 100, 50, console=Console(force_terminal=False), clock=lambda: now) as p,
    ):
        for _ in range(20):
            now += 2.0
            p.advance("loss 0.5")
    assert [record.getMessage() for record in caplog.records] == ["run: step 65 of 100, 1 min 10 s left  loss 0.5"]


def test_durations_read_well() -> None:
    assert [duration(s) for s in (4.4, 185, 7620)] == ["4 s", "3 min 05 s", "2 h 07 min"]


def test_on_a_cpu_bfloat16_trains_no_flat_patches() -> None:
    """torch's gradients of them write outside their memory; beside the limit they are float32's to their rounding."""
    cpu = torch.device("cpu")
    assert training_amp_dtype("auto", cpu, (10, 96, 96)) is None
    assert training_amp_dtype("bf16", torch.device("cuda"), (10, 96, 96)) is torch.bfloat16
    with pytest.raises(InputError, match="amp: expected auto or off for patches of 10 slices of 96 × 96 voxels"):
        training_amp_dtype("bf16", cpu, (10, 96, 96))
    flat = (8, 8 * FLATTEST, 8 * FLATTEST)
    dtype = training_amp_dtype("bf16", cpu, flat)
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(12, 12, 3, padding=1)
    image = torch.randn(1, 12, *flat)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            convolution(image).float().square().mean().backward()
        assert convolution.weight.grad is not None
        gradients.append(convolution.weight.grad.clone())
        convolution.zero_grad()
    torch.testing.assert_close(*gradients, rtol=0, atol=0.01 * float(gradients[0].abs().max()))

"""T1 images from label maps: signals as the textbook has them, lesions where and as dark as they must be."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from segsync_train.cli import main
from segsync_train.config.synthesis import AgeingConfig
from segsync_train.synthesis import Anatomies, Generator, SynthesisConfig, load_sources
from segsync_train.synthesis.ageing import aged
from segsync_train.synthesis.extra_axial import with_extra_axial_fluid
from segsync_train.synthesis.fields import Draw, gaussian
from segsync_train.synthesis.injuries import LesionMix, stroke, trauma
from segsync_train.synthesis.retraction import retracted
from segsync_train.synthesis.scene import Scene, place
from segsync_train.synthesis.sequences import Matter, mprage, spin_echo, spoiled_gradient_echo
from segsync_train.synthesis.t1 import fatty, render
from segsync_train.synthesis.tissues import INTRACRANIAL, PARENCHYMA, Tissue
from synthesis_cases import write_sources

SPACING_MM = 5.0
CONFIG = SynthesisConfig()


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Anatomies:
    """Coarse, to be quick."""
    return load_sources(write_sources(tmp_path_factory.mktemp("sources")), SPACING_MM)


@pytest.fixture(scope="module")
def scene(anatomies: Anatomies) -> Scene:
    return placed(Draw(1, torch.device("cpu")), anatomies, skull_stripped=False)


def placed(draw: Draw, anatomies: Anatomies, *, skull_stripped: bool) -> Scene:
    return place(draw, anatomies.heads[0], CONFIG.anatomy, skull_stripped, SPACING_MM)


def t1_settings(**changes: object) -> SynthesisConfig:
    return SynthesisConfig.model_validate({"t1": changes})


def test_signal_equations_have_the_textbooks_values() -> None:
    """T1 of 1000 ms, T2 of 90 ms: a spin echo after one half-life of T1, a gradient echo at Ernst's angle."""
    matter = [Matter(density=0.8, t1=1000.0, t2_star=60.0)]
    assert spin_echo(matter, 1000 * math.log(2), 9.0)[0] == pytest.approx(0.8 * 0.5 * math.exp(-0.1))
    decay = math.exp(-0.02)
    ernst = 0.8 * math.sqrt((1 - decay) / (1 + decay)) * math.exp(-0.1)
    assert spoiled_gradient_echo(matter, 20.0, math.acos(decay), 6.0)[0] == pytest.approx(ernst)


def test_mprage_is_what_pulse_after_pulse_gives() -> None:
    """The closed form against a magnetisation that is followed through twenty cycles."""
    repetition, inversion, pulses, spacing, angle = 2300.0, 900.0, 176, 7.0, math.radians(9)
    for t1 in (350.0, 830.0, 1350.0, 4200.0):
        m, signal = 1.0, 0.0
        for _ in range(20):
            m = 1 - (1 + 0.95 * m) * math.exp(-(inversion - 88 * spacing) / t1)
            for pulse in range(pulses):
                signal = abs(m) * math.sin(angle) if pulse == 88 else signal
                m = 1 - (1 - m * math.cos(angle)) * math.exp(-spacing / t1)
            m = 1 - (1 - m) * math.exp(-(repetition - inversion - 88 * spacing) / t1)
        closed = mprage([Matter(1.0, t1, 1e9)], repetition, inversion, pulses, spacing, angle, 0.0, 0.5, 0.95)
        assert closed[0] == pytest.approx(signal, rel=1e-6)


@pytest.mark.parametrize("task", ["aims-tbi", "isles26"])
def test_most_lesions_are_darker_than_the_brain_around_them(anatomies: Anatomies, task: str) -> None:
    """Against the brighter half of what lies within 10 mm, in images whose contrast is physics; blood may be bright."""
    plain = {"none": 0.0}
    config = t1_settings(acquisition={"skull_stripped": 1.0}, altered=0.0, random=0.0, trauma=plain, stroke=plain)
    generator = Generator(task, anatomies, config)
    darker = []
    for seed in range(10):
        case = generator(seed)
        image, lesion = case.images[0].numpy(), case.target.numpy() > 0
        around = ndimage.binary_dilation(lesion, iterations=2) & ~lesion & (image > 0)
        if lesion.sum() > 8:
            darker.append(np.median(image[lesion]) < np.percentile(image[around], 75))
    assert len(darker) >= 5
    assert np.mean(darker) >= 0.8


@pytest.mark.parametrize("causes", [(1, 0), (0, 1)])
def test_no_ventricle_is_outlined(anatomies: Anatomies, causes: tuple[int, int]) -> None:
    always = {"trauma": {"none": 0.0}, "stroke": {"none": 0.0}}
    config = t1_settings(extra_axial_fluid=0.0, ex_vacuo=0.0, causes=causes, **always)
    marked = 0
    for seed in range(3):
        draw = Draw(seed, torch.device("cpu"))
        scene = placed(draw, anatomies, skull_stripped=bool(seed % 2))
        _, target, _ = render(draw, scene, anatomies, config)
        marked += int(target.sum())
        assert not (target.bool() & (scene.tissues[Tissue.VENTRICLE] > 0.5)).any()
    assert marked > 100


def test_lost_tissue_draws_the_ventricle_near_and_leaves_the_other_side(scene: Scene) -> None:
    """A ball of lost tissue beside one lateral ventricle."""
    x, near = scene.standard_mm[2], scene.ventricle_mm
    middle = torch.stack([scene.standard_mm[0] - 16, scene.standard_mm[1] - 20, x - 40]).norm(dim=0)
    lesion = (middle < 22).float() * scene.parenchyma
    bent, (moved,) = retracted(Draw(0, torch.device("cpu")), scene, [lesion], pull_mm=8.0, reach_mm=12.0)
    ventricles = [one.tissues[Tissue.VENTRICLE] for one in (scene, bent)]
    sides = [[float(ventricle[part].sum()) for ventricle in ventricles] for part in (x > 3, x < -9)]
    assert sides[0][1] > 1.1 * sides[0][0]
    assert sides[1][1] == pytest.approx(sides[1][0], rel=0.02)
    far = x < -30
    assert torch.allclose(bent.tissues[:, far], scene.tissues[:, far], atol=0.02)
    assert float(moved.sum()) < float(lesion.sum())
    assert float(near[moved > 0.5].min()) > 0


def test_wide_sulci_take_brain_and_give_fluid(scene: Scene) -> None:
    """What the brain loses becomes fluid; ventricles, and brain far from any fluid, stay."""
    old = aged(Draw(1, torch.device("cpu")), scene, AgeingConfig(sulci=(1.0, 1.0)))
    lost = scene.parenchyma.sum() - old.parenchyma.sum()
    gained = old.tissues[Tissue.OUTER_CSF].sum() - scene.tissues[Tissue.OUTER_CSF].sum()
    assert float(lost) > 0.02 * float(scene.parenchyma.sum())
    assert float(gained) == pytest.approx(float(lost), rel=1e-3)
    assert torch.equal(old.tissues[Tissue.VENTRICLE], scene.tissues[Tissue.VENTRICLE])
    deep = gaussian(scene.tissues[Tissue.OUTER_CSF], 3.0) < 1e-4
    assert deep.any()
    assert torch.allclose(old.parenchyma[deep], scene.parenchyma[deep], atol=1e-3)


def test_grey_white_matter_beside_a_ventricle_is_outlined(anatomies: Anatomies) -> None:
    """Gliosis alone, as bright as cortex: it is seen by where it lies."""
    config = t1_settings(
        causes=(0, 1), ex_vacuo=0.0, altered=0.0, random=0.0, extra_axial_fluid=0.0, perivascular=0.0,
        stroke={"none": 0.0, "kinds": (0, 0, 0, 1), "gliosis_mm": (18, 20)}, acquisition={"skull_stripped": 1.0},
    )  # fmt: skip
    outlined = []
    for seed in range(6):
        draw = Draw(seed, torch.device("cpu"))
        scene = placed(draw, anatomies, skull_stripped=True)
        _, target, _ = render(draw, scene, anatomies, config)
        outlined.append(int(target.sum()) * SPACING_MM**3 / 1000)
        assert float(scene.tissues[Tissue.WHITE][target.bool()].mean() if target.any() else 1) > 0.6
    assert np.median(outlined) > 3


@pytest.mark.parametrize(("mix", "fraction"), [(trauma, CONFIG.t1.trauma.none), (stroke, CONFIG.t1.stroke.none)])
def test_as_many_brains_as_asked_for_have_no_lesion(
    anatomies: Anatomies, scene: Scene, mix: LesionMix, fraction: float
) -> None:
    without = [not mix(Draw(seed, torch.device("cpu")), scene, anatomies, CONFIG) for seed in range(40)]
    # Two standard deviations of a binomial fraction.
    assert abs(np.mean(without) - fraction) < 2 * math.sqrt(fraction * (1 - fraction) / len(without))


def test_a_brain_without_lesions_has_none_in_its_target(anatomies: Anatomies) -> None:
    """What imitates lesions is drawn at its most frequent."""
    always = {"white_matter": 1.0, "microbleeds": 1.0}
    t1 = {"perivascular": 1.0, "extra_axial_fluid": 1.0, "trauma": {"none": 1.0}, "causes": (1, 0)}
    generator = Generator("aims-tbi", anatomies, SynthesisConfig.model_validate({"lesions": always, "t1": t1}))
    assert not any(generator(seed).target.any() for seed in range(2))


def test_extra_axial_fluid_pushes_the_brain_and_leaves_the_rest(scene: Scene) -> None:
    pushed = with_extra_axial_fluid(Draw(3, torch.device("cpu")), scene)
    brain = [float(one.tissues[PARENCHYMA].sum()) for one in (scene, pushed)]
    fluid = [float(one.tissues[Tissue.OUTER_CSF].sum()) for one in (scene, pushed)]
    assert fluid[1] > fluid[0]
    # Pressed together, not cut away: less than the fluid's volume is missing.
    assert 0.8 < brain[1] / brain[0] < 1
    assert float(pushed.tissues.sum(0).max()) <= 1.01
    skull = [float(one.tissues[INTRACRANIAL.stop :].sum()) for one in (scene, pushed)]
    assert skull[1] == pytest.approx(skull[0], rel=0.05)


def test_a_case_is_a_function_of_its_seed(anatomies: Anatomies) -> None:
    one, same, other = (Generator("isles26", anatomies)(seed) for seed in (5, 5, 6))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.target, same.target)
    assert one.images.shape != other.images.shape or not torch.equal(one.images, other.images)
    assert one.images.dtype == torch.float32
    assert bool(one.images.isfinite().all())


@pytest.mark.parametrize(("task", "files"), [("aims-tbi", 2), ("isles22", 4)])
def test_the_command_writes_the_same_bytes_twice(
    task: str, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head of a third of the size, so that it is quick; with the prepared sources and without."""
    write_sources(tmp_path / "sources", size=0.35)
    written = []
    for run in ("one", "two"):
        arguments = ["synthesize", "--task", task, "--n", "1", "-o", tmp_path / run, "--seed", "1"]
        arguments += ["--sources", tmp_path / "sources", "--cache", tmp_path / "cache"]
        monkeypatch.setattr(sys, "argv", ["segsync-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (None, 0)
        found = sorted((tmp_path / run).rglob("*.*"))
        written.append({path.relative_to(tmp_path / run): path.read_bytes() for path in found})
    assert len(written[0]) == files + 1
    assert written[0] == written[1]
    assert f"1 cases of {task}\tseeds 1 to 1" in capsys.readouterr().out


@pytest.mark.parametrize("skull_stripped", [False, True])
def test_the_task_brain_marks_what_the_skull_holds(anatomies: Anatomies, skull_stripped: bool) -> None:
    """One piece of a brain's volume; of a skull-stripped image all there is, of a head's the lesser part."""
    settings = SynthesisConfig.model_validate(
        {"t1": {"acquisition": {"skull_stripped": float(skull_stripped), "defaced": 0.0}}, "anatomy": {"cut": 0.0}}
    )
    for seed in range(6):
        case = Generator("brain", anatomies, settings)(seed)
        brain = case.target.numpy() > 0
        assert 1000 < brain.sum() * SPACING_MM**3 / 1000 < 3200
        parts, count = ndimage.label(brain)
        assert np.bincount(parts.ravel())[1:].max() / brain.sum() > 0.98, count
        shown = case.images[0].numpy() > 0
        outside = (shown & ~brain).sum() / shown.sum()
        assert outside < 0.2 if skull_stripped else outside > 0.25


def test_fat_lies_about_the_eyes_and_below_the_skin(scene: Scene) -> None:
    """Elsewhere muscle prevails; no other tissue becomes fat."""
    tissues = torch.zeros_like(scene.tissues)
    z, y, x = (torch.arange(side) * SPACING_MM for side in scene.size_zyx)
    eye = ((z.view(-1, 1, 1) - 60) ** 2 + (y.view(-1, 1) - 60) ** 2 + (x - 60) ** 2).sqrt()
    tissues[Tissue.EYE] = (eye < 12).float()
    tissues[Tissue.SOFT] = 1 - tissues[Tissue.EYE]
    tissues[Tissue.SOFT, :, -12:] = 0
    tissues[Tissue.SKIN, :, -12:-11] = 1
    for seed in range(4):
        fat = fatty(Draw(seed, torch.device("cpu")), replace(scene, tissues=tissues))
        assert fat[(eye >= 12) & (eye < 18)].mean() > 0.7
        assert fat[:, -13].mean() > 2 * fat[:, :-20][eye[:, :-20] > 50].mean()
        assert bool((fat <= tissues[Tissue.SOFT]).all())

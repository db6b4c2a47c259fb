"""ONNX Runtime as a predictor, what it says when something is wrong, and how much memory a case takes."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from builders import copying, graph, greedy, grid_of, tissue_of, write_bundle, write_image
from segsync import engine
from segsync.bundle import ChannelSpec, Fixed, load_bundle
from segsync.engine import Device, Engine, choose_device, open_engine, providers
from segsync.errors import ResourceError, UsageError, WeightsError
from segsync.memory import Footprint

GIB = 2**30


WEIGHTS = Path(__file__).parents[1] / "weights"


def engine_of(folder: Path) -> Engine:
    return Engine(load_bundle(folder), Device())


# --- the predictor ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 4, 8, 12), (2, 3, 16, 4, 4)])
def test_an_array_in_an_array_out(weights: Path, shape: tuple[int, ...]) -> None:
    windows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = engine_of(weights / "isles22")(windows)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.clip(windows[:, :1], 0, 1))


def test_any_window_can_warm_it_up(weights: Path) -> None:
    engine_of(weights / "isles22").warm_up((4, 8, 12))


def test_float16_weights_are_computed_in_float32(tmp_path: Path) -> None:
    """As the shipped networks store them: half the file, the same arithmetic."""
    third = np.float16(1 / 3)
    nodes = [helper.make_node("Cast", ["w"], ["wide"], to=1), helper.make_node("Mul", ["x", "wide"], ["y"])]
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=graph(nodes, {"w": third}, 1))
    # 1.0001 is 1 in float16.
    found = engine_of(folder)(np.full((1, 1, 4, 4, 4), 1.0001, dtype=np.float32))
    assert found == pytest.approx(np.float32(1.0001) * np.float32(third), rel=1e-6)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"not a network", "opens, found"),
        (copying(2), "expected 1 input channels and 1 labels as model.json says, found 2 and 1"),
        (graph([helper.make_node("Identity", ["x"], ["y"])], {}, channels=2, labels=2), "found 2 and 2"),
    ],
    ids=["no onnx", "channels", "labels"],
)
def test_a_network_that_is_not_what_its_spec_says(tmp_path: Path, model: bytes, said: str) -> None:
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=model)
    with pytest.raises(WeightsError) as error:
        engine_of(folder)
    assert str(error.value).startswith(str(folder / "model.onnx"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_that_fails_on_a_window_says_so(tmp_path: Path) -> None:
    """Nothing that could be taken for an empty brain."""
    nodes = [helper.make_node("Add", ["x", "fixed"], ["y"])]
    model = graph(nodes, {"fixed": np.zeros((1, 1, 5, 5, 5), dtype=np.float32)}, 1)
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=model)
    with pytest.raises(WeightsError, match=r"model\.onnx: the network failed on windows of shape \(1, 1, 4, 4, 4\)"):
        engine_of(folder)(np.zeros((1, 1, 4, 4, 4), dtype=np.float32))


DIVIDED = helper.make_node("Div", ["x", "by"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        ([helper.make_node("Sub", ["x", "x"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["y"])], {}, "nan"),
        ([DIVIDED], {"by": np.float32(0)}, "inf"),
        ([DIVIDED], {"by": np.float32(-0.2)}, "values of -5 to -5"),
        ([DIVIDED], {"by": np.float32(0.2)}, "values of 5 to 5"),
    ],
    ids=["nan", "infinity", "negative", "logits"],
)
def test_what_is_no_probability_is_an_error_that_names_it(
    tmp_path: Path, nodes: list[Any], constants: dict[str, Any], said: str
) -> None:
    """Compared with a threshold it would be an empty mask, or one of everything."""
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=graph(nodes, constants, 1))
    with pytest.raises(WeightsError, match=rf"model\.onnx: expected probabilities of 0 to 1, found .*{said}"):
        engine_of(folder)(np.ones((1, 1, 4, 4, 4), dtype=np.float32))


@pytest.mark.parametrize("ends", [[1, 1, 4, 4, 3], [1, 1, 4, 4, 1], [1, 1, 1, 1, 1]])
def test_probabilities_of_another_shape_are_an_error(tmp_path: Path, ends: list[int]) -> None:
    """NumPy would stretch a side of 1 without a word."""
    nodes = [helper.make_node("Slice", ["x", "from", "to"], ["y"])]
    model = graph(nodes, {"from": np.zeros(5, dtype=np.int64), "to": np.array(ends)}, 1)
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=model)
    with pytest.raises(WeightsError, match=r"expected probabilities of shape \(1, 1, 4, 4, 4\), found \(1, 1, "):
        engine_of(folder)(np.zeros((1, 1, 4, 4, 4), dtype=np.float32))


@pytest.mark.parametrize("device", [Device(), Device(openvino="f32")])
@pytest.mark.parametrize("kind", ["initializer", "constant"])
def test_weights_in_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, device: Device
) -> None:
    """No sha256 covers them, beside the network or in the current folder."""
    folder, outside = tmp_path / "aims-tbi", TensorProto(data_type=TensorProto.FLOAT, dims=[1], name="by")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="other.bin")
    model = onnx.load_from_string(graph([DIVIDED], {"by": np.ones(1, dtype=np.float32)}, 1))
    if kind == "initializer":
        model.graph.initializer[0].CopyFrom(outside)
    else:
        del model.graph.initializer[:]
        model.graph.node.insert(0, helper.make_node("Constant", [], ["by"], value=outside))
    write_bundle(folder, "aims-tbi", model=model.SerializeToString())
    (folder / "other.bin").write_bytes(np.ones(1, dtype=np.float32).tobytes())
    monkeypatch.chdir(folder)
    with pytest.raises(WeightsError, match=r"expected a file with all its weights, found some kept in another file"):
        Engine(load_bundle(folder), device)


def test_a_network_that_is_exchanged_after_its_check_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "aims-tbi", "aims-tbi"))
    bundle.model.write_bytes(copying(1) + b"\0")
    with pytest.raises(WeightsError, match="the file is altered"):
        Engine(bundle, Device())


def test_standard_output_is_the_same_after_threads_have_used_networks(weights: Path) -> None:
    """Each opens and runs its own, as data loaders do; what leads the stream elsewhere must bring it back."""
    before, windows = sys.stdout, np.zeros((1, 3, 4, 4, 4), dtype=np.float32)

    def work(_: int) -> None:
        engine = engine_of(weights / "isles22")
        for _ in range(20):
            engine(windows)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert sys.stdout is before


def test_memory_that_really_ends_is_a_memory_error(tmp_path: Path) -> None:
    engine = engine_of(write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=greedy(1, most_voxels=8**3)))
    assert engine(np.ones((1, 1, 8, 8, 8), dtype=np.float32)).all()
    with pytest.raises(MemoryError):
        engine(np.ones((1, 1, 16, 8, 8), dtype=np.float32))


# --- devices ---------------------------------------------------------------------------------------------------------


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == Device()
    assert str(Device()) == "cpu"
    assert str(Device(1)) == "cuda:1"
    assert "CPUExecutionProvider" in providers()


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu "])
def test_a_word_that_is_no_device(word: str) -> None:
    with pytest.raises(UsageError, match="expected auto, cpu, openvino, openvino:bf16, cuda or cuda:N"):
        choose_device(word)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segsync.engine.providers", lambda: ["CPUExecutionProvider"])
    assert choose_device("auto") == Device()
    with pytest.raises(ResourceError, match=r"--device cuda:0: no GPU \(.*\); use --device cpu"):
        choose_device("cuda:0")


def test_a_gpu_that_is_not_there_is_told_from_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is wrong, not its driver or its libraries."""

    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = 2
            return 0

    monkeypatch.setattr("segsync.engine.providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver())
    assert [choose_device(word) for word in ("auto", "cuda", "cuda:1")] == [Device(0), Device(0), Device(1)]
    with pytest.raises(ResourceError, match=r"--device cuda:2: .*the NVIDIA driver shows 2, numbered from 0"):
        choose_device("cuda:2")


def test_openvino_gives_what_onnx_runtime_gives() -> None:
    """Two engines that share no code, on the shipped network and windows of two sizes, in turn."""
    bundle = load_bundle(WEIGHTS / "isles22")
    expected, exact, coarse = (open_engine(bundle, device) for device in ("cpu", "openvino", "openvino:bf16"))
    assert [str(engine.device) for engine in (exact, coarse)] == ["openvino", "openvino:bf16"]
    generator = np.random.default_rng(0)
    for sides in ((32, 32, 32), (16, 32, 48), (32, 32, 32)):
        windows = generator.standard_normal((1, 3, *sides)).astype(np.float32)
        np.testing.assert_allclose(exact(windows), expected(windows), atol=2e-3)
        assert np.abs(coarse(windows) - expected(windows)).mean() < 0.02


#: Two networks of OpenVINO, given back in the order in which they were opened, then a signal.
SIGNAL_AFTER_OPENVINO = """
import signal, sys
from pathlib import Path
import numpy as np
from segsync.bundle import load_bundle
from segsync.engine import open_engine
engines = [open_engine(load_bundle(Path(sys.argv[1])), "openvino") for _ in range(2)]
for engine in engines:
    engine(np.zeros((1, 3, 16, 16, 16), np.float32))
del engine
while engines:
    del engines[0]
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(5))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_after_openvinos_networks_are_gone_reaches_its_handler() -> None:
    """Each of OpenVINO's cores gives the thread a stack for signal handlers; a freed one ended the process."""
    command = [sys.executable, "-c", SIGNAL_AFTER_OPENVINO, str(WEIGHTS / "isles22")]
    assert subprocess.run(command, check=False).returncode == 5


def test_openvino_says_what_is_wrong_as_onnx_runtime_does(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "aims-tbi", "aims-tbi", model=b"no network")
    with pytest.raises(WeightsError, match=r"model\.onnx: expected a network that OpenVINO 20\S* opens, found: "):
        open_engine(load_bundle(folder), "openvino")
    folder = write_bundle(tmp_path / "isles22", "isles22", model=copying(1))
    with pytest.raises(WeightsError, match=r"expected 3 input channels and 1 labels .*, found 1 and 1"):
        open_engine(load_bundle(folder), "openvino")


def test_without_openvino_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    bundle = load_bundle(write_bundle(tmp_path / "isles22", "isles22"))
    with pytest.raises(ResourceError, match=r"pip install 'segsync-isles\[cpu,openvino\]'"):
        open_engine(bundle, "openvino")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_windows_are_halved_until_they_fit_below_the_limit() -> None:
    """By hand: 1 GiB and 100 bytes a voxel; 128³ takes 0.2 GiB, 64³ 0.024, 32³ 0.003."""
    footprint = Footprint(GIB, 100.0)
    assert footprint.largest((128, 128, 128), (16, 16, 16), 0, 2 * GIB) == (128, 128, 128)
    assert footprint.largest((128, 128, 128), (16, 16, 16), 0, int(1.1 * GIB)) == (64, 64, 64)
    assert footprint.largest((128, 128, 128), (16, 16, 16), GIB, int(2.01 * GIB)) == (32, 32, 32)
    assert footprint.largest((128, 128, 128), (16, 32, 48), 0, 0) == (16, 32, 48)


PROBE = """
import json
import numpy as np
from segsync.memory import Footprint, peak_bytes
held = []
before = peak_bytes()
found = Footprint.measure(lambda side: held.append(np.ones((*side, 64), dtype=np.float32)), (100, 100, 100))
print(json.dumps([before, found.base, found.per_voxel]))
"""


def test_the_footprint_is_what_a_window_really_takes() -> None:
    """256 bytes a voxel, seen by a process that has not held as much before."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    before, base, per_voxel = json.loads(done.stdout)
    assert base == pytest.approx(before, rel=0.05)
    assert per_voxel == pytest.approx(256, rel=0.3)


CT = """
import json, sys
from pathlib import Path
from typing import Any
import segsync
from segsync.memory import peak_bytes
model = segsync.load("isles24", weights=sys.argv[1], device="cpu")
result = model.predict({"ncct": sys.argv[2], "tmax": sys.argv[3]})
result.save(sys.argv[4])
peak = peak_bytes()
print(json.dumps([peak, result.statistics.windows, result.volume_ml, list(result.mask.shape)]))
"""


def test_a_large_ct_stays_below_2_gb(tmp_path: Path) -> None:
    """512×512×400 voxels in a process of its own; half the resolution, a quick network: images take the memory."""
    grid = grid_of((400, 512, 512), (1.0, 0.45, 0.45))
    ct = np.full(grid.size_zyx, -1000, dtype=np.int16)
    ct[20:380, 100:400, 100:400] = 0
    ct[150:250, 150:250, 150:250] = 1
    path = write_image(tmp_path / "ct.nii", ct, grid, compress=False)
    small = grid_of((50, 64, 64), (8.0, 3.6, 3.6), (-7.0 + 1.575, 11.0 + 1.575, 3.0 + 3.5))
    perfusion = write_image(tmp_path / "tmax.mha", tissue_of(small, 5.0), small)
    channels = (
        ChannelSpec(name="ncct", normalisation=Fixed(low=-500, high=1, mean=0, std=1)),
        ChannelSpec(name="tmax", normalisation=Fixed(low=0, high=20, mean=5, std=4)),
    )
    weights = write_bundle(
        tmp_path / "isles24", "isles24", channels=channels, spacing_zyx=(2.0, 0.9, 0.9), patch_zyx=(64, 64, 64)
    )
    command = [sys.executable, "-c", CT, str(weights), str(path), str(perfusion), str(tmp_path / "mask.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, windows, volume_ml, shape = json.loads(done.stdout)
    assert shape == [400, 512, 512]
    assert windows > 27
    assert volume_ml == pytest.approx(100 * 100 * 100 * 0.45 * 0.45 / 1000, rel=0.05)
    assert peak < 2e9


def test_auto_goes_on_on_the_cpu_where_the_gpu_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that is too old shows its GPU, and the runtime then cannot start on it."""
    bundle = load_bundle(write_bundle(tmp_path / "isles22", "isles22"))
    monkeypatch.setattr(engine, "_why_no_cuda", lambda number: None)
    monkeypatch.setattr(engine, "_providers", lambda *arguments: ["CPUExecutionProvider"])
    assert open_engine(bundle, "auto").device == Device()
    assert "could not start on the GPU" in caplog.text
    with pytest.raises(ResourceError, match="could not start on the GPU"):
        open_engine(bundle, "cuda")


def test_a_gpu_that_fails_on_the_way_is_not_what_a_result_came_from(
    weights: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime then goes on on the CPU by itself; the report names the device that computed."""
    failing = engine_of(weights / "isles22")
    failing.device = Device(0)  # as if it had started there

    class Lost:
        def run(self, *_: object) -> None:
            raise EPFail("CUDA failure 719: unspecified launch failure")

    failing._session._sess = Lost()
    windows = np.random.default_rng(0).uniform(size=(1, 3, 4, 4, 4)).astype(np.float32)
    assert np.array_equal(failing(windows), windows[:, :1])
    assert str(failing.device) == "cpu"
    assert "cuda:0 failed" in caplog.text
    assert capfd.readouterr().out == ""


def test_standard_output_is_for_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime prints there that a GPU does not start."""
    session = onnxruntime.InferenceSession

    def talkative(*arguments: Any, **options: Any) -> Any:
        print("EP Error CUDA failure 35")  # noqa: T201
        return session(*arguments, **options)

    monkeypatch.setattr("onnxruntime.InferenceSession", talkative)
    engine_of(write_bundle(tmp_path / "isles22", "isles22"))
    caught = capsys.readouterr()
    assert caught.out == ""
    assert "EP Error" in caught.err

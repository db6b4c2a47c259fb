"""The network: any size its strides divide, both directions of reading, the published sizes, the same graph in ONNX."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from segsync_train.networks.onnx_file import Probabilities, write_onnx
from segsync_train.networks.vil import ViLBlock
from segsync_train.networks.xlstm_unet import PresetName, XLSTMUNet, XLSTMUNetConfig, preset

SMALL = XLSTMUNetConfig(
    in_channels=2,
    out_channels=3,
    widths=(4, 8, 8),
    strides_zyx=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    vil_stages=(1, 2),
    block_size=4,
)


def network(config: XLSTMUNetConfig = SMALL) -> XLSTMUNet:
    torch.manual_seed(0)
    return XLSTMUNet(config)


@pytest.mark.parametrize("size", [(4, 4, 4), (4, 8, 12), (6, 4, 20)])
def test_any_size_that_the_strides_divide(size: tuple[int, int, int]) -> None:
    net = network()
    outputs = net(torch.randn(2, 2, *size))
    assert [tuple(o.shape) for o in outputs] == [(2, 3, *size), (2, 3, size[0], size[1] // 2, size[2] // 2)]
    assert net.eval()(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_another_size_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"multiples of \(2, 4, 4\), found \(3, 4, 4\)"):
        network()(torch.randn(1, 2, 3, 4, 4))


@pytest.mark.parametrize(("name", "published"), [("enc", 43.70e6), ("bot", 42.09e6)])
def test_presets_are_the_size_of_the_published_code(name: PresetName, published: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in XLSTMUNet(preset(name, 1, 2)).parameters())
    assert count == pytest.approx(published, rel=0.02)


def test_small_has_eight_million_parameters() -> None:
    with torch.device("meta"):
        assert 7e6 < sum(p.numel() for p in XLSTMUNet(preset("small", 3, 2)).parameters()) < 8.5e6


def test_with_two_directions_every_voxel_sees_every_other() -> None:
    """With one, a voxel depends on those before it alone."""
    torch.manual_seed(0)
    feature_map = torch.randn(1, 8, 2, 4, 4, requires_grad=True)
    for directions, sees_later in ((1, False), (2, True)):
        block = ViLBlock(8, directions=directions)
        (gradient,) = torch.autograd.grad(block(feature_map)[0, :, 0, 1, 1].sum(), feature_map)
        by_token = gradient[0].flatten(1).abs().sum(0)
        here = 5
        assert (by_token[: here + 1] > 0).all()
        assert bool((by_token[here + 1 :] > 0).all()) == sees_later


def test_every_parameter_is_trained() -> None:
    net = network()
    sum(o.square().mean() for o in net(torch.randn(1, 2, 4, 8, 8))).backward()
    # What InstanceNorm cancels: the biases of the convolutions before it.
    cancelled = ("first.bias", "second.bias")
    idle = [n for n, p in net.named_parameters() if p.grad is None or (not p.grad.any() and not n.endswith(cancelled))]
    assert idle == []


def test_bfloat16_autocast_stays_near_float32() -> None:
    net = network().eval()
    x = torch.randn(1, 2, 8, 16, 16)
    with torch.inference_mode():
        expected = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = net(x).float()
    assert found.isfinite().all()
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_torch_compile_traces_it_whole() -> None:
    net = network(replace(SMALL, vil_stages=(2,))).eval()
    x = torch.randn(1, 2, 4, 8, 8)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(network(), path, half_weights=False)
    return path


@pytest.mark.parametrize("size", [(4, 4, 4), (4, 8, 12), (8, 64, 96), (2, 12, 116)])
@pytest.mark.parametrize("batch", [1, 2])
def test_onnx_runtime_gives_what_torch_gives(onnx_path: Path, size: tuple[int, int, int], batch: int) -> None:
    """Also at sizes with more chunks of tokens than the graph was traced with, and lengths no chunk divides."""
    image = torch.randn(batch, 2, *size)
    with torch.inference_mode():
        expected = Probabilities(network()).eval()(image).numpy()
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("bias", [-500.0, 500.0])
def test_gates_that_training_drove_far_out_still_train(bias: float) -> None:
    """And where a query meets no key, so that the normaliser is next to nothing."""
    net = network()
    for name, parameter in net.named_parameters():
        if name.endswith("gates.bias"):
            torch.nn.init.constant_(parameter, bias)
        if name.endswith("query.weight"):
            torch.nn.init.constant_(parameter, 1e-12)
    sum(logits.square().mean() for logits in net(torch.randn(1, 2, 4, 16, 24))).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("bias", [-500.0, 500.0])
def test_gates_that_training_drove_far_out_are_the_same_in_onnx(bias: float, tmp_path: Path) -> None:
    """Both gates of every head: a sigmoid that underflows must not become NaN."""
    net = network()
    for name, parameter in net.named_parameters():
        if name.endswith("gates.bias"):
            torch.nn.init.constant_(parameter, bias)
    write_onnx(net, tmp_path / "model.onnx", half_weights=False)
    image = torch.randn(1, 2, 4, 16, 24)
    with torch.inference_mode():
        expected = Probabilities(net).eval()(image).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=2e-5)


def test_the_graph_has_no_loop_and_free_sizes(onnx_path: Path) -> None:
    model = onnx.load(onnx_path)
    assert not {node.op_type for node in model.graph.node} & {"Loop", "Scan", "If", "SequenceAt"}
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["n", 2, "z", "y", "x"]


def test_half_weights_halve_the_file_and_hardly_change_a_probability(onnx_path: Path, tmp_path: Path) -> None:
    wide = network(replace(SMALL, widths=(8, 24, 32)))
    sizes, results = [], []
    image = np.random.default_rng(0).standard_normal((1, 2, 8, 16, 16)).astype(np.float32)
    for half in (False, True):
        path = tmp_path / f"{half}.onnx"
        model = write_onnx(wide, path, half_weights=half)
        sizes.append(sum(len(t.raw_data) for t in model.graph.initializer))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"image": image})[0])
    assert sizes[1] < 0.55 * sizes[0]
    np.testing.assert_allclose(results[0], results[1], atol=5e-3)


def test_normalisation_keeps_its_digits_in_a_large_window(tmp_path: Path) -> None:
    """ONNX Runtime's own InstanceNormalization, which sums half a million voxels one by one, is 6e-6 off here."""
    net = network()
    write_onnx(net, tmp_path / "model.onnx", half_weights=False)
    image = torch.randn(1, 2, 64, 96, 96).square()
    with torch.inference_mode():
        expected = Probabilities(net).eval()(image).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=2e-6)

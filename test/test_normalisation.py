"""Instance normalisation with channels last: torch's own in float64 and with channels first is the judge."""

import pytest
import torch
import torch.nn.functional as F

from segsync_train.networks.normalisation import InstanceNorm
from segsync_train.networks.xlstm_unet import XLSTMUNet, XLSTMUNetConfig


@pytest.mark.parametrize("shape", [(1, 4, 4, 4, 4), (2, 3, 2, 6, 10), (1, 8, 1, 1, 3), (1, 5, 48, 48, 48)])
@pytest.mark.parametrize("layout", [torch.channels_last_3d, torch.contiguous_format])
def test_values_and_gradients_are_those_of_the_definition(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    """Far from 0, and in one sample, of which torch 2.13 gives a wrong gradient where it comes with channels last."""
    torch.manual_seed(0)
    norm = InstanceNorm(shape[1])
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    image, above = 100 + torch.randn(shape), torch.randn(shape)
    exact, gain, bias = (t.detach().double().requires_grad_() for t in (image, norm.weight, norm.bias))
    expected = F.instance_norm(exact, weight=gain, bias=bias)
    expected.backward(above.double())  # type: ignore[no-untyped-call]
    x = image.to(memory_format=layout).requires_grad_()
    found = norm(x)
    torch.autograd.backward(found, above.to(memory_format=layout))
    assert found.is_contiguous(memory_format=layout)
    pairs = ((found, expected), (x.grad, exact.grad), (norm.weight.grad, gain.grad), (norm.bias.grad, bias.grad))
    for got, wanted in pairs:
        assert got is not None
        assert wanted is not None
        torch.testing.assert_close(got.double(), wanted, rtol=2e-4, atol=2e-4 * float(wanted.detach().abs().max()))


def test_a_network_trains_alike_in_either_layout() -> None:
    config = XLSTMUNetConfig(1, 2, widths=(4, 8), strides_zyx=((1, 1, 1), (2, 2, 2)), vil_stages=(1,))
    image, gradients = torch.randn(1, 1, 8, 8, 8), []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        torch.manual_seed(0)
        net = XLSTMUNet(config).to(memory_format=layout)  # type: ignore[call-overload]
        net(image.to(memory_format=layout))[0].square()[:, 0].mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_bfloat16_stays_bfloat16_and_is_summed_in_float32() -> None:
    torch.manual_seed(0)
    x = (3 + torch.randn(1, 8, 32, 32, 32)).bfloat16().to(memory_format=torch.channels_last_3d)
    found = InstanceNorm(8)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), F.instance_norm(x.float()), rtol=1e-2, atol=1e-2)


def test_a_compiled_network_takes_a_map_of_another_layout_than_it_was_traced_with() -> None:
    """With weights in channels first the graph foresees another layout than the convolutions then give."""
    torch.manual_seed(0)
    net = XLSTMUNet(XLSTMUNetConfig(1, 2, widths=(4, 8), strides_zyx=((1, 1, 1), (2, 2, 2)), vil_stages=(1,))).eval()
    image = torch.randn(1, 1, 16, 16, 16).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(net, backend="eager")(image)
        torch.testing.assert_close(compiled, net(image), rtol=0.05, atol=0.05)

"""The network as one ONNX file: float16 weights that are cast to float32 at load, any window the strides divide.

And back: the weights of such a file, to train on from those that were shipped.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from segsync.atomic import whole_file, why_not
from segsync.errors import OutputError, WeightsError
from segsync_train.networks import SegmentationNetwork
from segsync_train.networks.outputs import probabilities

#: Old enough for every ONNX Runtime of the last three years; nothing the network needs came later.
OPSET = 18
#: Smaller tensors (gains, biases, shapes) stay float32: they weigh nothing.
SMALLEST_HALVED = 1024


class Probabilities(nn.Module):
    """What the runtime calls: (N, C, Z, Y, X) float32 → probabilities of the foreground labels (N, L, Z, Y, X)."""

    def __init__(self, network: SegmentationNetwork, *, overlapping: bool = False) -> None:
        super().__init__()
        self.network, self.overlapping = network, overlapping

    def forward(self, image: Tensor) -> Tensor:
        """The finest logits, softmax, without background; of labels that overlap, a sigmoid."""
        return probabilities(self.network.finest(image), overlapping=self.overlapping)


class _InstanceNorm(nn.Module):
    """`nn.InstanceNorm3d` as ONNX Runtime computes it precisely: means of planes, then of their means.

    Its InstanceNormalization adds a channel's voxels one after the other in float32, and loses digits as windows grow:
    at 64³ probabilities of the `isles22` weights were up to 0.003 off with it, and are up to 0.00002 with this.
    """

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - _mean(x)
        gain = torch.rsqrt(_mean(centred * centred) + self.eps)
        if self.weight is None:
            return centred * gain
        return centred * (gain * _column(self.weight)) + _column(self.bias)


def _mean(x: Tensor) -> Tensor:
    """(N, C, Z, Y, X) → (N, C, 1, 1, 1)."""
    return x.mean((3, 4), keepdim=True).mean(2, keepdim=True)


def _column(values: Tensor) -> Tensor:
    """(C,) → (C, 1, 1, 1)."""
    return values[:, None, None, None]


@contextmanager
def _precise(network: SegmentationNetwork) -> Iterator[None]:
    """Every instance normalisation of the network is as above meanwhile, its parameters' names as they were."""
    norms = [
        (module, name, child)
        for module in network.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.InstanceNorm3d)
    ]
    try:
        for module, name, child in norms:
            setattr(module, name, _InstanceNorm(child))
        yield
    finally:
        for module, name, child in norms:
            setattr(module, name, child)


def write_onnx(
    network: SegmentationNetwork, path: Path, *, half_weights: bool = True, overlapping: bool = False
) -> onnx.ModelProto:
    """Write a network as ONNX.

    Batch and sides stay free; the graph has as many nodes for one chunk of tokens as for a thousand.

    Args:
        network: In evaluation mode, on the CPU.
        path: The file.
        half_weights: Whether weights are stored in 16 bits.
        overlapping: Whether labels overlap (regions), each with a probability of its own.

    Returns:
        The graph.

    Raises:
        OutputError: The file cannot be written.
    """
    wrapped = Probabilities(network, overlapping=overlapping).eval()
    sides = [2 * multiple for multiple in network.multiple_zyx]
    # Sides of different length, so that no two of them are taken for one.
    example = torch.zeros(1, network.in_channels, sides[0], 2 * sides[1], 3 * sides[2])
    try:
        with whole_file(path) as part, _precise(network), warnings.catch_warnings():
            # The tracer warns of every check of a shape; the graph is compared with the network at other shapes below.
            # torch.export instead takes half a minute and fixes sizes that must stay free.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                wrapped,
                (example,),
                str(part),
                dynamo=False,
                opset_version=OPSET,
                # Folding is ONNX Runtime's work; the weights keep their names and shapes, which `read_onnx` needs.
                do_constant_folding=False,
                input_names=["image"],
                output_names=["probabilities"],
                dynamic_axes={name: {0: "n", 2: "z", 3: "y", 4: "x"} for name in ("image", "probabilities")},
            )
            model = onnx.load(part)
            if half_weights:
                _halve_weights(model)
            onnx.checker.check_model(model)
            onnx.save(model, part)
    except OSError as error:
        raise OutputError(f"{path}: expected to write the network, found {why_not(path.parent, error)}") from error
    return model


def _halve_weights(model: onnx.ModelProto) -> None:
    """Store large float32 weights as float16, each with a Cast that ONNX Runtime folds away when it opens the file."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_HALVED:
            continue
        name, stored = tensor.name, f"{tensor.name}_float16"
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, stored))
        casts.append(helper.make_node("Cast", [stored], [name], f"{name}_cast", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The weights of a file that `write_onnx` wrote, float32, by the network's own names.

    Raises WeightsError if the file is not one.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and the file system's errors share no base class but Exception
        raise WeightsError(f"{path}: expected a network as ONNX, found {error}; give an exported model.onnx") from error
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            stored[node.output[0]] = stored.pop(node.input[0])
    weights = {name: torch.from_numpy(array.astype(np.float32)) for name, array in stored.items()}
    return {name.removeprefix("network."): tensor for name, tensor in weights.items() if name.startswith("network.")}

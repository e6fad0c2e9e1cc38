"""A colorizer as the network it was exported from, in PyTorch: the trainer's own generator with the file's weights."""

from collections.abc import Callable

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from kinochrome_proto.colorizer_file import Colorizer
from kinochrome_trainer import networks, recipe
from kinochrome_trainer.layers import BatchNorm, Block


class Twin(nn.Module):
    """Luma (N, 1, H, W) uint8 -> chroma (N, 2, H/s, W/s) in -0.5..0.5."""

    def __init__(self, network: networks.Generator, scale: float, shift: float) -> None:
        """The network is given scale * luma + shift, luma in 0..1."""
        super().__init__()
        self.network, self.scale, self.shift = network, scale, shift

    def forward(self, luma: Tensor) -> Tensor:
        x = luma.to(torch.float32) * (self.scale / 255)
        if self.shift:
            x = x + self.shift
        painted: Tensor = 0.5 * self.network(x, None)
        return painted.clamp(-0.5, 0.5)


def twin(colorizer: Colorizer, expected: Callable[[Tensor], Tensor], tolerance: float, *, folded: bool) -> Twin:
    """The network of a deterministic colorizer that paints chroma and whose norms, if any, are batch norms.

    Args:
        colorizer: the file, into whose convolutions the export has folded the norms.
        expected: luma (N, 1, H, W) uint8 -> what the file gives for it.
        tolerance: largest difference from that, as chroma in -0.5..0.5.
        folded: leave out the norms, as the file does; else they are there as they were trained, though their means and
            scales are lost: they add the file's biases and change nothing else.

    Raises ValueError where no such network gives the file's numbers.
    """
    settings = recipe.Generator(**colorizer.manifest.recipe["generator"])
    network = networks.generator(settings).eval()
    for block in network.modules():
        if isinstance(block, Block) and isinstance(block.norm, BatchNorm):
            assert isinstance(block.convolution, nn.Conv2d)
            block.convolution.bias = nn.Parameter(torch.zeros(block.convolution.out_channels))
            if folded:
                block.norm = None
    luma = torch.randint(0, 256, (2, 1, 4 * network.size_multiple, 3 * network.size_multiple), dtype=torch.uint8)
    with torch.inference_mode():
        layers = _in_order(network, luma[:1].float())
    tensors = _weights(colorizer.content)
    if [tuple(layer.weight.shape) for layer in layers] != [tuple(weight.shape) for weight, _ in tensors]:
        raise ValueError(f"{colorizer.path} is not the network of its recipe's generator, {settings.name}")
    for layer, (weight, bias) in zip(layers, tensors, strict=True):
        layer.weight = nn.Parameter(weight)
        layer.bias = None if bias is None else nn.Parameter(bias)
    if not folded:
        _apart(network)
    want = expected(luma)
    # Networks of the first releases were given luma in 0..1, those of today are given it in -1..1.
    for scale, shift in ((2.0, -1.0), (1.0, 0.0)):
        found = Twin(network, scale, shift).eval()
        with torch.inference_mode():
            if (found(luma) - want).abs().max() <= tolerance:
                return found
    raise ValueError(f"{colorizer.path}: the network of its recipe gives other numbers than the file")


def _apart(network: networks.Generator) -> None:
    """Let the norms add the biases."""
    for block in network.modules():
        if isinstance(block, Block) and isinstance(block.norm, BatchNorm):
            assert isinstance(block.convolution, nn.Conv2d) and block.convolution.bias is not None
            assert block.norm.running_var is not None
            block.norm.running_var.fill_(1 - block.norm.eps)
            block.norm.bias = nn.Parameter(block.convolution.bias.detach())
            block.convolution.bias = None


def _in_order(network: networks.Generator, x: Tensor) -> list[nn.Conv2d | nn.Linear]:
    """Its layers with weights, as they are called."""
    called: list[nn.Conv2d | nn.Linear] = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, gives: called.append(layer))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    network(x, None)
    for hook in hooks:
        hook.remove()
    return called


def _weights(content: bytes) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of each convolution and matrix product of the graph, in its order."""
    graph = onnx.load_from_string(content).graph
    tensors = {item.name: torch.tensor(numpy_helper.to_array(item)) for item in graph.initializer}
    return [
        (tensors[node.input[1]], tensors[node.input[2]] if len(node.input) > 2 else None)
        for node in graph.node
        if node.op_type in ("Conv", "Gemm")
    ]

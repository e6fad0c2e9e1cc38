"""What a generator costs: multiply-accumulates and parameters."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from .networks import Generator


def macs(generator: Generator, height: int, width: int) -> int:
    """Multiply-accumulates that painting one frame of height x width takes, in convolutions and linear layers.

    Norms, activations and resizing are not counted, nor what clever kernels save. Of a transposed convolution, only
    what is multiplied counts. Papers on compression count the zeros between its inputs too: so CycleGAN's ResNet-9 at
    256 x 256 has 56.8 G in Li et al. (2020, table 1), and 49.6 G here. Nothing is computed on the device "meta".
    """
    device = next(generator.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator.paint(torch.zeros(1, 1, height, width, device=device))
    return int(counter.get_total_flops()) // 2  # of which a multiply-accumulate is two


def parameters(generator: Generator) -> int:
    """Numbers that training sets; running statistics are none."""
    return sum(parameter.numel() for parameter in generator.parameters())

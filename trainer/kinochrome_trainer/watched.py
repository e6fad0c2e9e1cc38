"""A generator that tells, with what it paints, the features on the way there: what teachers compare."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import BadRecipe
from .layers import Block, Residual
from .networks import Generator


class Watched:
    """A generator that tells, with its chroma, the features at named points."""

    def __init__(self, network: Generator, names: Mapping[str, str]) -> None:
        """names: the points, by the settings that name them, such as teacher.points.0.student.

        Raises BadRecipe, naming the setting and listing what is known, for a point that the network has not.
        """
        self.network, self.names = network, tuple(names.values())
        self._found: dict[str, Tensor] = {}
        known = points(network)
        for setting, name in names.items():
            if name not in known:
                raise BadRecipe(f"{setting}: no point {name!r} in the network; known: {', '.join(known)}")
            known[name].register_forward_hook(lambda module, given, out, name=name: self._found.update({name: out}))

    def __call__(self, luma: Tensor, noise: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Luma (N, 1, H, W) in 0..1 -> chroma as of `Generator.paint`, and features (N, C, h, w) in order of names."""
        chroma = self.network.paint(luma, noise)
        found, self._found = self._found, {}  # held no longer than needed
        return chroma, [found[name].float() for name in self.names]

    def channels(self, size: int) -> list[int]:
        """Channels at each point, found with a picture of this side in pixels; no statistics change."""
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            device = next(self.network.parameters()).device
            _, seen = self(torch.zeros(1, 1, size, size, device=device))
        self.network.train(training)
        return [tensor.shape[1] for tensor in seen]


def points(network: nn.Module) -> dict[str, nn.Module]:
    """Where features can be watched: behind each block of a network, by its name there."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, Block | Residual) and not inside:
            found[name] = module
    return found

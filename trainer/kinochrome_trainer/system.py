"""What all systems share: networks with their optimizers, one update, the running average, the colours used so far."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from . import losses, networks
from .colour import ycbcr_to_rgb
from .errors import BadRecipe
from .recipe import Recipe

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Batch:
    """What one step learns from: R'G'B' (N, 3, size, size) in 0..1, on the device."""

    colour: Tensor
    """Colour stills: the domain Y, and the truth of pairs."""
    gray: Tensor | None
    """Stills for the domain X of unpaired systems, not aligned with `colour`; None for those that do without."""
    gray_is_real: bool
    """Whether `gray` was photographed so; otherwise it is still in colour, for `film_stock.expose` to make gray."""


class Stateful(Protocol):
    """What a checkpoint can hold: tensors by name."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any: ...


class System(ABC):
    """Networks of one family and how they are trained together. The loop knows only this class.

    A subclass says which loss terms it has, adds its networks, and defines `step`.
    """

    TERMS: ClassVar[frozenset[str]]
    """Fields of `recipe.Loss` that are weights of terms and that this system has."""
    UNPAIRED: ClassVar[bool]
    """Whether batches carry gray stills of their own."""
    TAKES_GRAY: ClassVar[bool] = False
    """Whether gray stills are learnt from where some are given, though they need not be."""

    losses: tuple[str, ...]
    """Names of the losses that `step` may report: the columns of the log."""

    def __init__(self, recipe: Recipe, fabric: Fabric) -> None:
        """Raises BadRecipe where the recipe asks for what its system or its networks cannot do."""
        for term, weight in recipe.loss.terms.items():
            if weight and term not in self.TERMS:
                raise BadRecipe(f"system {recipe.system!r} has no term {term!r}: set loss.{term}=0")
        if recipe.loss.gamma < 1 and "gamma" not in self.TERMS:
            raise BadRecipe(f"system {recipe.system!r} has no content loss: set loss.gamma=1")
        if recipe.loss.r1 and not recipe.loss.adversarial:
            raise BadRecipe("loss.r1 tames a discriminator, and loss.adversarial=0 leaves it out")
        self.recipe, self.fabric = recipe, fabric
        self.modules: dict[str, Stateful] = {}
        """Everything that a checkpoint must hold, by name."""
        self.optimizers: dict[str, torch.optim.Adam] = {}
        """By the name of their network. Each group states its `initial_lr`, from which the schedule starts."""
        self.generator = networks.generator(recipe.generator)
        """The network in training."""
        for phase in recipe.phases:
            if phase.size % self.generator.size_multiple:
                raise BadRecipe(
                    f"phases: size {phase.size} is not a multiple of {self.generator.size_multiple}, "
                    f"which generator {recipe.generator.name!r} needs"
                )
        self.average = self._placed(copy.deepcopy(self.generator)).eval().requires_grad_(False)
        """The running average of its weights, in eval mode: what is sampled, measured and exported."""
        self.modules["average"] = self.average
        self._add("generator", self.generator, recipe.optimizer.lr)
        if recipe.loss.overuse:
            self.colours = self._placed(ColourUse())
            self.modules["colours"] = self.colours

    @abstractmethod
    def step(self, batch: Batch, step: int, chance: torch.Generator) -> dict[str, float]:
        """One update, step `step` of the run; returns the losses by name. All that is random comes from `chance`."""

    @classmethod
    def settled(cls, recipe: Recipe) -> Recipe:
        """The recipe with what it leaves to the files that it names filled in. Raises BadRecipe, BadRun."""
        return recipe

    def rehearse(self) -> None:
        """Run each network once at each phase's size. Raises BadRecipe for one that is too small for them."""
        networks = [module for module in self.modules.values() if isinstance(module, nn.Module)]
        learning = [network for network in networks if network.training]
        for network in learning:  # nothing is to change: no statistics, no estimate of a singular value
            network.eval()
        for size in sorted({phase.size for phase in self.recipe.phases}):
            try:
                with torch.no_grad():
                    self._rehearse(torch.zeros(1, 3, size, size, device=self.fabric.device))
            except (RuntimeError, ValueError) as error:
                raise BadRecipe(f"phases: size {size} does not suit these networks: {error}".splitlines()[0]) from None
        for network in learning:
            network.train()

    def _rehearse(self, rgb: Tensor) -> None:
        """Put R'G'B' (1, 3, size, size) through every network."""
        self.generator.picture(rgb)

    def _placed(self, network: M) -> M:
        network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _add(self, name: str, network: nn.Module, lr: float) -> None:
        """Take a network into training: place it, give it an optimizer, and let checkpoints hold it."""
        settings = self.recipe.optimizer
        self._placed(network)
        if self.recipe.compile:
            network.compile()
        group = {"params": network.parameters(), "initial_lr": lr}
        adam = torch.optim.Adam([group], lr, (settings.beta1, settings.beta2), fused=True)
        self.modules[name] = network
        self.optimizers[name] = self.fabric.setup_optimizers(adam)  # type: ignore[assignment] # wraps what it is given

    def _update(self, loss: Tensor, names: Sequence[str]) -> None:
        """Step the named networks' optimizers down the gradient of `loss`, averaged over processes."""
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        for name in names:
            network, optimizer = self.modules[name], self.optimizers[name]
            assert isinstance(network, nn.Module)
            if self.fabric.world_size > 1:
                self._average_gradients(network)
            if self.recipe.optimizer.clip:
                self.fabric.clip_gradients(
                    network, optimizer, max_norm=self.recipe.optimizer.clip, error_if_nonfinite=False
                )
            optimizer.step()

    def _average_gradients(self, network: nn.Module) -> None:
        # By hand, not by DistributedDataParallel: that counts on one forward and one backward pass of each network
        # in a step, while here a network is run several times, and a discriminator also without learning.
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = cast(Tensor, self.fabric.all_reduce(flat, reduce_op="mean"))
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """average ← ema·average + (1 − ema)·generator; the buffers (batch-norm statistics) are averages already.

        At first the average looks back less far, or a short run would end near the weights that it began with.
        """
        keep = min(self.recipe.optimizer.ema, (1 + step) / (10 + step))
        theirs = dict(self.generator.named_parameters())
        torch._foreach_lerp_(
            list(self.average.parameters()), [theirs[name] for name, _ in self.average.named_parameters()], 1 - keep
        )
        for ours, new in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            ours.copy_(new)

    def _overuse(self, painted: Tensor, truth: Tensor) -> Tensor:
        """The overuse term of chroma (N, 2, h, w) painted, beside chroma of real pictures."""
        histogram = losses.colour_histogram(painted)
        self.colours.see(histogram.detach(), losses.colour_histogram(truth.detach()))
        return losses.overuse(histogram, self.colours.used, self.colours.real)


class ColourUse(nn.Module):
    """Running means of the colour histograms of painted and of real pictures."""

    KEEP = 0.99
    used: Tensor
    real: Tensor

    def __init__(self) -> None:
        super().__init__()
        even = torch.full((losses.BINS, losses.BINS), 1 / losses.BINS**2)
        self.register_buffer("used", even)
        self.register_buffer("real", even.clone())

    def see(self, painted: Tensor, truth: Tensor) -> None:
        """Take in the histograms (BINS, BINS) of one batch."""
        self.used = self.used.lerp(painted, 1 - self.KEEP)
        self.real = self.real.lerp(truth, 1 - self.KEEP)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """While entered, gradients flow through the network but are not kept for its weights, which saves a third."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def enlarged(chroma: Tensor, luma: Tensor) -> Tensor:
    """(N, 2, h, w) brought bilinearly to the size of luma (N, 1, H, W)."""
    return chroma if chroma.shape[2:] == luma.shape[2:] else F.interpolate(chroma, luma.shape[2:], mode="bilinear")


def coloured(luma: Tensor, chroma: Tensor) -> Tensor:
    """R'G'B' (N, 3, H, W), not clipped, of luma and chroma of any smaller size."""
    return ycbcr_to_rgb(luma, enlarged(chroma, luma), clip=False)

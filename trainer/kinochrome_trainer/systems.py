"""Systems: how the networks of one family are trained together. The loop knows only this interface."""

import copy
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import film_stock, losses, networks
from .colour import rgb_to_ycbcr
from .errors import BadRecipe
from .recipe import Recipe


class System(Protocol):
    """What the loop asks of a system."""

    generator: networks.Generator
    """The network in training."""
    average: networks.Generator
    """The running average of its weights, in eval mode: what is sampled, measured and exported."""
    modules: dict[str, nn.Module]
    """Everything with weights that a checkpoint must hold, by name."""
    optimizers: dict[str, torch.optim.Adam]
    """By name, for checkpoints. Each group states its `initial_lr`, from which the schedule starts."""
    losses: tuple[str, ...]
    """Names of the losses that `step` may report: the columns of the log."""

    def step(self, rgb: Tensor, step: int, chance: torch.Generator) -> dict[str, float]:
        """One update from colour stills (N, 3, size, size) in 0..1; returns the losses by name."""


class Pix2Pix:
    """Conditional GAN on pairs (Isola et al., 2017): G* = arg min max L_cGAN(G, D) + λ·L_L1(G).

    Pairs are made here: the truth is the still's chroma, the input its luma worn by `film_stock.expose`.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.generator = networks.generator(recipe.generator)
        if recipe.data.size % self.generator.size_multiple:
            raise BadRecipe(
                f"data.size {recipe.data.size} is not a multiple of {self.generator.size_multiple}, "
                f"which generator {recipe.generator.name!r} of depth {recipe.generator.depth} needs"
            )
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.modules: dict[str, nn.Module] = {"generator": self.generator, "average": self.average}
        settings = recipe.optimizer
        betas = (settings.beta1, settings.beta2)
        self.losses: tuple[str, ...] = ("l1", "d", "g") if recipe.loss.adversarial else ("l1",)
        self.optimizers = {"generator": _adam(self.generator, settings.lr, betas)}
        if recipe.loss.adversarial:
            self.discriminator = networks.PatchDiscriminator(recipe.discriminator, self.generator.chroma_stride)
            self.modules["discriminator"] = self.discriminator
            self.optimizers["discriminator"] = _adam(self.discriminator, settings.discriminator_lr, betas)

    def step(self, rgb: Tensor, step: int, chance: torch.Generator) -> dict[str, float]:
        luma, chroma = rgb_to_ycbcr(rgb)
        gray = film_stock.expose(rgb, self.recipe.film_stock, chance).contiguous(memory_format=torch.channels_last)
        truth = F.avg_pool2d(chroma, self.generator.chroma_stride)  # what the chroma grid can hold of it
        weights = self.recipe.loss
        adversarial = weights.adversarial > 0 and step >= weights.adversarial_from
        with torch.autocast(rgb.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            painted = self.generator(gray)
        painted = painted.float()
        report = {"l1": losses.paired_l1(painted, truth)}
        loss = weights.l1 * losses.paired_l1(painted, truth, weights.vivid)
        if adversarial:
            # The judge sees the clean luma: it is to judge colours, not guess at the wear of the gray.
            report["d"] = self._judge(luma, truth, painted.detach())
            self.discriminator.requires_grad_(False)  # the generator's step needs no gradients of the judge's weights
            report["g"] = losses.least_squares_generator(self._scores(luma, painted))
            loss = loss + weights.adversarial * report["g"]
        self._update("generator", loss)
        self._follow()
        return {name: value.item() for name, value in report.items()}

    def _scores(self, luma: Tensor, chroma: Tensor) -> Tensor:
        with torch.autocast(chroma.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            scores: Tensor = self.discriminator(luma, chroma)
        return scores.float()

    def _judge(self, luma: Tensor, truth: Tensor, painted: Tensor) -> Tensor:
        self.discriminator.requires_grad_(True)
        loss = losses.least_squares_discriminator(self._scores(luma, truth), self._scores(luma, painted))
        self._update("discriminator", loss)
        return loss.detach()

    def _update(self, name: str, loss: Tensor) -> None:
        # torch's stubs leave backward untyped
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.no_grad()
    def _follow(self) -> None:
        """average ← ema·average + (1 − ema)·generator; the buffers (batch-norm statistics) are averages already."""
        keep = self.recipe.optimizer.ema
        theirs = dict(self.generator.named_parameters())
        torch._foreach_lerp_(
            list(self.average.parameters()), [theirs[name] for name, _ in self.average.named_parameters()], 1 - keep
        )
        for ours, new in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            ours.copy_(new)


def _adam(network: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    return torch.optim.Adam([{"params": network.parameters(), "initial_lr": lr}], lr, betas)


SYSTEMS: dict[str, type[Pix2Pix]] = {"pix2pix": Pix2Pix}


def build(recipe: Recipe) -> System:
    """The system a recipe names, with fresh weights that depend on its seed alone. Raises BadRecipe."""
    if recipe.system not in SYSTEMS:
        raise BadRecipe(f"no system {recipe.system!r}; choose from {', '.join(SYSTEMS)}")
    torch.manual_seed(recipe.seed)
    return SYSTEMS[recipe.system](recipe)

"""Learning without pairs: gray film on one side, colour pictures on the other."""

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from . import discriminators, features, film_stock, losses, networks
from .colour import luma_of, rgb_to_ycbcr
from .errors import BadRecipe
from .recipe import Recipe
from .system import Batch, System, frozen


class CycleGAN(System):
    """CycleGAN (Zhu et al., 2017): L(G, F, D_X, D_Y) = L_GAN(G, D_Y) + L_GAN(F, D_X) + λ·L_cyc(G, F), and what its
    relatives add. G paints gray X as colour Y; F brings colour back to gray.

    - `color_to_gray = "arithmetic"` replaces F by what it has to learn: gray is a weighted sum. F and D_X fall away.
    - `loss.l1` makes it semi-supervised: the colour stills, made gray, are also learnt as pairs.
    - `generator.noise` makes it stochastic. By itself G learns to ignore noise: nothing rewards heeding it, and the
      cycle Y → X → Y cannot guess it. `loss.mode_seeking` and `loss.latent` are the cures; with the second, the noise
      of that cycle is read from the picture it starts at (Augmented CycleGAN: Almahairi et al., 2018).
    """

    TERMS = frozenset(
        {"adversarial", "l1", "cycle", "identity", "perceptual", "mode_seeking", "latent", "overuse", "r1"}
    )
    UNPAIRED = True

    def __init__(self, recipe: Recipe, fabric: Fabric) -> None:
        super().__init__(recipe, fabric)
        weights, settings = recipe.loss, recipe.generator
        if not weights.adversarial:
            raise BadRecipe("system 'cyclegan' learns from its discriminator: loss.adversarial must be above 0")
        if weights.identity and settings.paints == "chroma":
            raise BadRecipe("loss.identity has no meaning for chroma, which no generator reads: set it to 0")
        if recipe.data.keep_color and recipe.color_to_gray == "arithmetic":
            raise BadRecipe("data.keep_color translates both ways: set color_to_gray=network")
        if (weights.mode_seeking or weights.latent) and not settings.noise:
            raise BadRecipe("loss.mode_seeking and loss.latent are about noise: set generator.norm and generator.noise")
        others = ("cycle", "identity", "l1", "perceptual", "mode_seeking", "latent", "overuse")
        if weights.adversarial_from and not any(getattr(weights, term) for term in others):
            raise BadRecipe("loss.adversarial_from leaves nothing to learn from before it: set it to 0, or add a term")
        self._add_judge("y")
        self.back: networks.Generator | None = None
        if recipe.color_to_gray == "network":
            normed = "instance" if settings.norm == "conditional" else settings.norm
            self.back = networks.generator(dataclasses.replace(settings, paints="picture", noise=0, norm=normed))
            self._add("back", self.back, recipe.optimizer.lr)
            self._add_judge("x")
        if weights.latent:
            self.encoder = networks.StyleEncoder(settings.width, settings.noise)
            self._add("encoder", self.encoder, recipe.optimizer.lr)
        if weights.perceptual:
            self.features = self._placed(features.load(recipe.features))
        self.losses = (
            "g",
            "d_y",
            *(["f", "d_x"] if self.back else []),
            *(term for term in others if getattr(weights, term)),
            *(["r1_y", *(["r1_x"] if self.back else [])] if weights.r1 else []),
        )
        self.independent = settings.norm != "batch"
        """Whether a network treats each picture of a batch by itself, so that batches may be joined."""

    def step(self, batch: Batch, step: int, chance: torch.Generator) -> dict[str, float]:
        weights, report = self.recipe.loss, {}
        x, y = self._gray(batch, chance), _laid_out(batch.colour)
        noise = self._noise(len(x), x, chance)
        # Everything that G is to paint without waiting for F, in one pass: the unpaired gray, ...
        asked, noises = [x], [noise]
        if weights.mode_seeking:  # ... once more with another noise, ...
            asked, noises = [*asked, x], [*noises, self._noise(len(x), x, chance)]
        if weights.identity:  # ... what is in colour already, ...
            asked, noises = [*asked, y], [*noises, noise]
        if weights.l1:  # ... and the gray of pairs.
            worn = film_stock.expose(batch.colour, self.recipe.film_stock, chance)
            asked, noises = [*asked, worn.expand_as(y)], [*noises, noise]
        painted = self._through(self.generator, asked, noises)
        fake_y, rest = painted[0], painted[1:]
        fake_x, *same_x = self._gray_again([y, x] if weights.identity and self.back else [y])
        if weights.mode_seeking:
            report["mode_seeking"] = losses.mode_seeking(fake_y, rest.pop(0), noise, noises[1])
        if weights.identity:
            report["identity"] = losses.identity(rest.pop(0), y)
            if same_x:
                report["identity"] = report["identity"] + losses.identity(same_x[0], x)
        if weights.l1:
            truth = rgb_to_ycbcr(y)[1]
            report["l1"] = losses.paired_l1(rgb_to_ycbcr(rest.pop(0))[1], truth, weights.vivid)
        style = noise
        if weights.latent:
            with self.fabric.autocast():
                report["latent"] = losses.latent(self.encoder(fake_y), noise)
                style = self.encoder(y)
        if weights.cycle or weights.perceptual:
            with fixed_statistics(self.generator), fixed_statistics(self.back):
                (back_x,), (back_y,) = self._gray_again([fake_y]), self._through(self.generator, [fake_x], [style])
            if weights.cycle:
                form = weights.cycle_form
                report["cycle"] = losses.cycle(back_x, x, form) + losses.cycle(back_y, y, form)
            if weights.perceptual:
                with self.fabric.autocast():
                    seen, meant = self.features(torch.cat((back_x, back_y))), self.features(torch.cat((x, y)))
                report["perceptual"] = losses.content(seen, meant)
        if weights.overuse:
            report["overuse"] = self._overuse(rgb_to_ycbcr(fake_y)[1], rgb_to_ycbcr(y)[1])
        loss = x.new_zeros(()) + sum(getattr(weights, term) * value for term, value in report.items())
        if step >= weights.adversarial_from:
            report["g"] = self._fooling("y", fake_y)
            loss = loss + weights.adversarial * report["g"]
            if self.back:
                report["f"] = self._fooling("x", fake_x)
                loss = loss + weights.adversarial * report["f"]
        trained = ["generator", *(["back"] if self.back else []), *(["encoder"] if weights.latent else [])]
        self._update(loss, trained)
        if step >= weights.adversarial_from:
            report |= self._judge("y", y, fake_y.detach(), chance)
            if self.back:
                report |= self._judge("x", x, fake_x.detach(), chance)
        self._follow(step)
        return {name: value.item() for name, value in report.items()}

    def _gray(self, batch: Batch, chance: torch.Generator) -> Tensor:
        """The pictures of domain X, as (N, 3, H, W)."""
        assert batch.gray is not None
        if self.recipe.data.keep_color:
            return _laid_out(batch.gray)
        worn = None if batch.gray_is_real else film_stock.expose(batch.gray, self.recipe.film_stock, chance)
        return _laid_out((luma_of(batch.gray) if worn is None else worn).expand_as(batch.gray))

    def _noise(self, count: int, like: Tensor, chance: torch.Generator) -> Tensor:
        return torch.randn(count, self.recipe.generator.noise, generator=chance, device=like.device)

    def _through(self, network: networks.Generator, pictures: list[Tensor], noises: list[Tensor]) -> list[Tensor]:
        """Each batch through a generator, all in one pass where that gives the same: it fills the machine better."""
        with self.fabric.autocast():
            if self.independent:
                out = network.picture(torch.cat(pictures), torch.cat(noises))
                return list(torch.split(out, [len(batch) for batch in pictures]))
            # Batch-norm statistics are to be those of what the network is for, which comes first.
            first = network.picture(pictures[0], noises[0])
            with fixed_statistics(network):
                pairs = zip(pictures[1:], noises[1:], strict=True)
                return [first, *(network.picture(batch, noise) for batch, noise in pairs)]

    def _gray_again(self, pictures: list[Tensor]) -> list[Tensor]:
        """F: each batch of colour pictures as gray."""
        if self.back:
            return self._through(self.back, pictures, [batch.new_empty(len(batch), 0) for batch in pictures])
        return [luma_of(batch).expand_as(batch) for batch in pictures]

    def _rehearse(self, rgb: Tensor) -> None:
        super()._rehearse(rgb)
        for domain in ("y", "x") if self.back else ("y",):
            self._scores(domain, rgb)

    def _add_judge(self, domain: str) -> None:
        judge = discriminators.discriminator(self.recipe.discriminator, 3)
        self._add(f"judge_{domain}", judge, self.recipe.optimizer.discriminator_lr)
        self.modules[f"pool_{domain}"] = ImagePool(self.recipe.discriminator.pool)

    def _scores(self, domain: str, pictures: Tensor) -> Tensor:
        judge = self.modules[f"judge_{domain}"]
        assert isinstance(judge, nn.Module)
        with self.fabric.autocast():
            scores: Tensor = judge(2 * pictures - 1)
        return scores.float()

    def _fooling(self, domain: str, fake: Tensor) -> Tensor:
        judge = self.modules[f"judge_{domain}"]
        assert isinstance(judge, nn.Module)
        with frozen(judge):
            return losses.fooling(self._scores(domain, fake), self.recipe.loss.adversarial_form)

    def _judge(self, domain: str, real: Tensor, fake: Tensor, chance: torch.Generator) -> dict[str, Tensor]:
        weights, pool = self.recipe.loss, self.modules[f"pool_{domain}"]
        assert isinstance(pool, ImagePool)
        fake = pool.exchange(fake, random.Random(f"{domain} {chance.initial_seed()}"))
        real = real.detach().requires_grad_(weights.r1 > 0)
        if self.recipe.discriminator.norm == "batch":
            real_scores, fake_scores = self._scores(domain, real), self._scores(domain, fake)
        else:
            real_scores, fake_scores = torch.split(self._scores(domain, torch.cat((real, fake))), len(real))
        report = {f"d_{domain}": losses.judging(real_scores, fake_scores, weights.adversarial_form)}
        loss = report[f"d_{domain}"]
        if weights.r1:
            report[f"r1_{domain}"] = losses.r1(real_scores, real)
            loss = loss + weights.r1 * report[f"r1_{domain}"]
        self._update(loss, [f"judge_{domain}"])
        return {name: value.detach() for name, value in report.items()}


@contextmanager
def fixed_statistics(network: nn.Module | None) -> Iterator[None]:
    """While entered, batch norm uses the statistics of its batch as always, but does not learn them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)] if network else []
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum


def _laid_out(pictures: Tensor) -> Tensor:
    return pictures.contiguous(memory_format=torch.channels_last)


class ImagePool:
    """A history of generated pictures, so that a discriminator does not forget earlier tricks (Shrivastava et al.,
    2017, section 2.3). Half of the pictures judged come from it. It starts anew when pictures change size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pictures = torch.empty(0, 3, 1, 1)

    def exchange(self, new: Tensor, chance: random.Random) -> Tensor:
        """New pictures (N, 3, H, W) in; (N, 3, H, W) out, each either the new one or an older one that it replaced."""
        if not self.size:
            return new
        if self.pictures.shape[1:] != new.shape[1:]:
            self.pictures = new[:0].clone()
        self.pictures = self.pictures.to(new)  # a checkpoint's lie on the CPU
        chosen = new.clone()
        for index, picture in enumerate(new):
            if len(self.pictures) < self.size:
                self.pictures = torch.cat((self.pictures, picture[None]))
            elif chance.random() < 0.5:
                place = chance.randrange(self.size)
                chosen[index] = self.pictures[place]
                self.pictures[place] = picture
        return chosen

    def state_dict(self) -> dict[str, Tensor]:
        """The pictures, for a checkpoint."""
        return {"pictures": self.pictures}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take them back."""
        self.pictures = state["pictures"]

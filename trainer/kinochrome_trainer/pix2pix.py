"""Learning from pairs: a colour still and the gray that film would have made of it."""

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from . import discriminators, features, film_stock, lessons, losses
from .colour import rgb_to_ycbcr
from .errors import BadRecipe
from .recipe import Recipe
from .system import Batch, System, coloured, frozen
from .watched import Watched

CHROMA_GAIN = 4.0  # chroma of photographs rarely passes ±0.2: this brings it to the scale of gray for the discriminator


class Pix2Pix(System):
    """Conditional GAN on pairs (Isola et al., 2017): G* = arg min max γ·(L_cGAN(G, D) + λ·L_L1(G)) + (1 − γ)·L_X(G).

    Pairs are made here: the truth is the still's chroma, the input its luma worn by `film_stock.expose`. With γ < 1 a
    content loss L_X on features of VGG-19 joins (DeblurGAN's: Kupyn et al., 2018).
    """

    TERMS = frozenset({"adversarial", "l1", "gamma", "overuse", "r1", "hints", "classes"})
    UNPAIRED = False

    def __init__(self, recipe: Recipe, fabric: Fabric) -> None:
        super().__init__(recipe, fabric)
        if recipe.generator.paints != "chroma" or recipe.generator.noise:
            raise BadRecipe("system 'pix2pix' paints one chroma: set generator.paints=chroma and generator.noise=0")
        weights = recipe.loss
        self.losses = tuple(
            name
            for name, on in {
                "l1": True,
                "content": weights.gamma < 1,
                "overuse": weights.overuse > 0,
                "hints": weights.hints > 0,
                "classes": weights.classes > 0,
                "g": weights.adversarial > 0,
                "d": weights.adversarial > 0,
                "r1": weights.r1 > 0,
            }.items()
            if on
        )
        if weights.adversarial:
            # Gray comes folded to the chroma grid by space to depth, so a generator of stride 4 is judged on a
            # sixteenth of the places; with stride 1 this is the usual form.
            inside = self.generator.chroma_stride**2 + 2
            self.discriminator = discriminators.discriminator(recipe.discriminator, inside)
            self._add("discriminator", self.discriminator, recipe.optimizer.discriminator_lr)
        if weights.gamma < 1:
            self.features = self._placed(features.load(recipe.features))
        self.painter = Watched(self.generator, {})
        if lessons.asked(weights):
            self.painter = Watched(self.generator, {"classifier.point": recipe.classifier.point})
            (channels,) = self.painter.channels(recipe.size)
            self.lessons = lessons.Lessons(weights, recipe.classifier, channels)
            self._add("lessons", self.lessons, recipe.optimizer.lr)

    def step(self, batch: Batch, step: int, chance: torch.Generator) -> dict[str, float]:
        luma, chroma = rgb_to_ycbcr(batch.colour)
        gray = film_stock.expose(batch.colour, self.recipe.film_stock, chance)
        gray = gray.contiguous(memory_format=torch.channels_last)
        truth = F.avg_pool2d(chroma, self.generator.chroma_stride)  # what the chroma grid can hold of it
        weights, report = self.recipe.loss, {}
        adversarial = weights.adversarial > 0 and step >= weights.adversarial_from
        with self.fabric.autocast():
            painted, seen = self.painter(gray)
        report["l1"] = losses.paired_l1(painted, truth)
        loss = weights.l1 * losses.paired_l1(painted, truth, weights.vivid)
        if adversarial:
            # The judge sees the clean luma: it is to judge colours, not guess at the wear of the gray.
            report |= self._judge(luma, truth, painted.detach())
            with frozen(self.discriminator):
                report["g"] = losses.fooling(self._scores(_pair(luma, painted)), weights.adversarial_form)
            loss = loss + weights.adversarial * report["g"]
        if weights.gamma < 1:
            with self.fabric.autocast():
                shown, meant = self.features(coloured(luma, painted)), self.features(batch.colour)
            report["content"] = losses.content(shown, meant)
            loss = losses.balanced(loss, report["content"], weights.gamma)
        if weights.overuse:
            report["overuse"] = self._overuse(painted, truth)
            loss = loss + weights.overuse * report["overuse"]
        learning = ["generator"]
        if lessons.asked(weights):
            with self.fabric.autocast():
                told = self.lessons(*seen, batch.colour)
            report |= told
            loss = loss + weights.hints * told.get("hints", 0.0) + weights.classes * told.get("classes", 0.0)
            learning.append("lessons")
        self._update(loss, learning)
        self._follow(step)
        return {name: value.item() for name, value in report.items()}

    def _rehearse(self, rgb: Tensor) -> None:
        super()._rehearse(rgb)
        luma, _ = rgb_to_ycbcr(rgb)
        painted = self.generator.paint(luma)
        if self.recipe.loss.adversarial:
            self._scores(_pair(luma, painted))

    def _judge(self, luma: Tensor, truth: Tensor, painted: Tensor) -> dict[str, Tensor]:
        weights = self.recipe.loss
        real = _pair(luma, truth).requires_grad_(weights.r1 > 0)
        scores = self._scores(real)
        report = {"d": losses.judging(scores, self._scores(_pair(luma, painted)), weights.adversarial_form)}
        loss = report["d"]
        if weights.r1:
            report["r1"] = losses.r1(scores, real)
            loss = loss + weights.r1 * report["r1"]
        self._update(loss, ["discriminator"])
        return {name: value.detach() for name, value in report.items()}

    def _scores(self, pair: Tensor) -> Tensor:
        with self.fabric.autocast():
            scores: Tensor = self.discriminator(pair)
        return scores.float()


def _pair(luma: Tensor, chroma: Tensor) -> Tensor:
    """Luma (N, 1, H, W) folded to the chroma grid, with chroma (N, 2, H/s, W/s): (N, s² + 2, H/s, W/s), centred."""
    folded = F.pixel_unshuffle(luma, luma.shape[-1] // chroma.shape[-1])
    return torch.cat((folded - 0.5, chroma * CHROMA_GAIN), 1).contiguous(memory_format=torch.channels_last)

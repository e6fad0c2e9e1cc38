"""Learning from a teacher: a light generator follows a big one that has been trained already."""

import dataclasses
import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from . import features, film_stock, losses
from .colour import luma_of, rgb_to_ycbcr
from .errors import BadRecipe, BadRun
from .networks import Generator
from .recipe import Recipe, Teacher
from .system import Batch, System, coloured
from .watched import Watched


class Distillation(System):
    """A student S learns from a frozen teacher T, the averaged generator of a finished run of any system:

        λ_out·mean |S(x) − T(y)| + λ_feat·mean_k ‖W_k s_k − t_k‖² / ‖t_k‖² + λ_L1·mean |S(x) − c| + λ_perc·L_X

    after GAN Compression (Li et al., 2020, section 3.1) and OMGD (Ren et al., 2021): s_k and t_k are features of both
    at `teacher.points`, W_k learnt 1x1 convolutions, c the true chroma of a still. There is no discriminator: what the
    teacher's taught it is in the teacher's colours (OMGD leaves it out too).

    The student sees a still as old film, x, the teacher its clean luma, y: so the student learns the colours that the
    teacher is surest of, and that wear is not to change them. Frames given as gray stills are seen by both as they
    are. No truth of them is known, and none is needed: the teacher tells.
    """

    TERMS = frozenset({"output_matching", "feature_matching", "l1", "perceptual"})
    UNPAIRED = False
    TAKES_GRAY = True

    def __init__(self, recipe: Recipe, fabric: Fabric) -> None:
        super().__init__(recipe, fabric)
        weights = recipe.loss
        if not (weights.output_matching or weights.feature_matching):
            raise BadRecipe("nothing is learnt from the teacher: set loss.output_matching or loss.feature_matching")
        teacher, _ = _load(recipe.teacher)
        self._check_fit(teacher)
        pairs = recipe.teacher.points if weights.feature_matching else ()
        if weights.feature_matching and not pairs:
            raise BadRecipe("loss.feature_matching compares features at teacher.points, and there are none: name some")
        ours, theirs = (
            {f"teacher.points.{index}.{side}": getattr(pair, side) for index, pair in enumerate(pairs)}
            for side in ("student", "teacher")
        )
        self.teacher = Watched(self._placed(teacher), theirs)
        """Not among the modules, like all that a checkpoint need not hold."""
        self.student = Watched(self.generator, ours)
        if pairs:
            self.adapters = Adapters(self.student.channels(recipe.size), self.teacher.channels(recipe.size))
            self._add("adapters", self.adapters, recipe.optimizer.lr)
        if weights.perceptual:
            self.features = self._placed(features.load(recipe.features))
        terms = ("output_matching", "feature_matching", "l1", "perceptual")
        self.losses = tuple(term for term in terms if getattr(weights, term))

    @classmethod
    def settled(cls, recipe: Recipe) -> Recipe:
        teacher, step = _load(recipe.teacher)
        named = dataclasses.replace(recipe.teacher, step=step, sha256=digest(teacher))
        return dataclasses.replace(recipe, teacher=named)

    def step(self, batch: Batch, step: int, chance: torch.Generator) -> dict[str, float]:
        weights, report = self.recipe.loss, {}
        luma, chroma = rgb_to_ycbcr(batch.colour)
        worn, clean = film_stock.expose(batch.colour, self.recipe.film_stock, chance), luma
        if batch.gray is not None:
            frames = luma_of(batch.gray)
            worn, clean = torch.cat((worn, frames)), torch.cat((clean, frames))
        worn, clean = (gray.contiguous(memory_format=torch.channels_last) for gray in (worn, clean))
        noise = torch.randn(len(worn), self.generator.noise_length, generator=chance, device=worn.device)
        with torch.no_grad(), self.fabric.autocast():
            told, taught = self.teacher(clean, noise)
        with self.fabric.autocast():
            painted, seen = self.student(worn, noise)
            led = self.adapters(seen) if weights.feature_matching else []
        told = on_grid(told, painted)
        if weights.output_matching:
            report["output_matching"] = losses.output_matching(painted, told)
        if weights.feature_matching:
            meant = [on_grid(there, here) for there, here in zip(taught, led, strict=True)]
            report["feature_matching"] = losses.feature_matching(led, meant)
        if weights.l1:
            truth = F.avg_pool2d(chroma, self.generator.chroma_stride)  # what the chroma grid can hold of it
            report["l1"] = losses.paired_l1(painted[: len(truth)], truth, weights.vivid)
        if weights.perceptual:
            with self.fabric.autocast():
                ours, theirs = self.features(coloured(clean, painted)), self.features(coloured(clean, told))
            report["perceptual"] = losses.content(ours, theirs)
        loss = painted.new_zeros(()) + sum(getattr(weights, term) * value for term, value in report.items())
        self._update(loss, ["generator", *(["adapters"] if weights.feature_matching else [])])
        self._follow(step)
        return {name: value.item() for name, value in report.items()}

    def _rehearse(self, rgb: Tensor) -> None:
        super()._rehearse(rgb)
        self.teacher(luma_of(rgb), None)

    def _check_fit(self, teacher: Generator) -> None:
        """Raises BadRecipe where student and teacher cannot be shown the same."""
        run, ours, theirs = self.recipe.teacher.run, self.generator.noise_length, teacher.noise_length
        if ours != theirs:
            norm = "conditional" if theirs else "batch"
            raise BadRecipe(
                f"teacher.run {run} was trained with generator.noise={theirs}, the student has {ours}: "
                f"set generator.noise={theirs} and generator.norm={norm}, or name another teacher"
            )
        for phase in self.recipe.phases:
            if phase.size % teacher.size_multiple:
                raise BadRecipe(
                    f"phases: size {phase.size} is not a multiple of {teacher.size_multiple}, which the teacher needs"
                )


class Adapters(nn.Module):
    """W_k: for each point, a 1x1 convolution from the student's channels to the teacher's."""

    def __init__(self, inside: list[int], outside: list[int]) -> None:
        super().__init__()
        pairs = zip(inside, outside, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(ours, theirs, 1) for ours, theirs in pairs)

    def forward(self, seen: list[Tensor]) -> list[Tensor]:
        """Features (N, C_k, h, w) -> (N, C'_k, h, w), in order of points."""
        return [adapt(tensor).float() for adapt, tensor in zip(self.convolutions, seen, strict=True)]


def on_grid(theirs: Tensor, ours: Tensor) -> Tensor:
    """(N, C, h', w') brought to the h and w of `ours`: averaged where it is finer, bilinear where it is coarser."""
    size = (ours.shape[2], ours.shape[3])
    if theirs.shape[2] > size[0]:
        return F.adaptive_avg_pool2d(theirs, size)
    return theirs if theirs.shape[2:] == size else F.interpolate(theirs, size, mode="bilinear")


def digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights, in hexadecimal: of names, types, shapes and bytes, in order of names."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _load(settings: Teacher) -> tuple[Generator, int]:
    """The teacher, frozen and in eval mode, with its step. Raises BadRecipe when none is named, BadRun when its run
    is missing, unfinished, damaged, or not the one that the recipe states."""
    from . import checkpoint  # which knows all systems, this one too

    if not settings.run:
        raise BadRecipe("no teacher is named: train a big generator, and name its run's folder with --set teacher.run=")
    run = Path(settings.run)
    if not run.is_dir():
        raise BadRun(f"teacher.run {run} is no folder: name the --out folder of a training run")
    try:
        teacher, trained, step = checkpoint.painter(checkpoint.latest(run))
    except BadRun as error:
        raise BadRun(f"teacher.run: {error}") from None
    if step < trained.steps:
        raise BadRun(f"teacher.run {run} is unfinished, {step} of {trained.steps} steps: carry it on with --resume")
    for key, stated, found in (("sha256", settings.sha256, digest(teacher)), ("step", settings.step, step)):
        if stated and stated != found:
            raise BadRun(
                f"teacher.run {run} is another teacher: its {key} is {found}, and teacher.{key}={stated} is asked for"
            )
    return teacher, step

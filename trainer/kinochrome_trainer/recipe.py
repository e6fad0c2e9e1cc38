"""Recipes: everything that decides what a training run does, as frozen dataclasses read from TOML."""

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import BadRecipe, BadRun


@dataclass(frozen=True)
class Generator:
    """The network that paints."""

    name: str = "light-unet"
    """A key of `networks.GENERATORS`."""
    paints: str = "chroma"
    """chroma: (Cb, Cr), the luma stays as it is; picture: all of R'G'B', as in the papers."""
    width: int = 48
    """Channels of the first level; each deeper level doubles them, up to eight times this."""
    depth: int = 3
    """U-Nets: how many times the features are halved in size after the first level."""
    blocks: int = 6
    """ResNet: residual blocks between encoder and decoder."""
    bottom: int = 0
    """Light U-Net: residual blocks at the deepest level, where they see most and cost least."""
    upsample: str = "transposed"
    """ResNet's decoder: transposed (convolution), or resize (nearest, then convolution: no checkerboard)."""
    norm: str = "batch"
    """instance, batch, or conditional (instance norm whose scale and shift follow from the noise)."""
    noise: int = 0
    """Length of the style noise z that chooses one of many colourings; 0 for one colouring. Needs norm conditional."""
    dropout: float = 0.0
    """Share of features dropped in the deepest decoder levels while training, 0..1; the ResNet has none."""


@dataclass(frozen=True)
class Discriminator:
    """The network that judges pictures."""

    name: str = "patch"
    """A key of `discriminators.DISCRIMINATORS`."""
    width: int = 64
    """Channels of the first layer."""
    layers: int = 3
    """patch: stride-2 convolutions before the last two of stride 1 (PatchGAN: 3)."""
    norm: str = "instance"
    """patch: instance or batch; never in the first and last layers."""
    spectral_norm: bool = False
    """Divide the weights of convolutions and linear layers by their largest singular value (Miyato et al., 2018).

    Digit capsules are left as they are: squash bounds them already.
    """
    capsules: int = 10
    """capsule, capsule-patch: capsules in each digit-capsule layer."""
    routing: int = 3
    """capsule, capsule-patch: iterations of routing by agreement."""
    pool: int = 50
    """cyclegan: generated pictures kept to be judged again (Shrivastava et al., 2017); 0 judges only new ones."""


@dataclass(frozen=True)
class Loss:
    """Weights of the terms of the generator's loss; 0 leaves a term out. A system refuses a term that it lacks."""

    adversarial: float = 0.0
    """Weight of the adversarial term; 0 leaves the discriminator out."""
    adversarial_form: str = "least-squares"
    """least-squares, bce, or mse (on the sigmoid of the scores): see `losses.ADVERSARIAL`."""
    adversarial_from: int = 0
    """First step at which the adversarial term counts: the generator learns plain colour before."""
    l1: float = 0.0
    """λ of the paired L1 term (pix2pix: 100)."""
    vivid: float = 0.0
    """How much more a pixel counts as its true colour is stronger, against brownish averages; 0 = plain L1."""
    cycle: float = 0.0
    """λ of the cycle-consistency term (CycleGAN: 10)."""
    cycle_form: str = "l1"
    """l1 or l2."""
    identity: float = 0.0
    """Weight of the identity term, absolute (CycleGAN: half of `cycle`); for generators that paint pictures."""
    perceptual: float = 0.0
    """Weight of the VGG-19 feature difference; cyclegan: picture and its cycle; distillation: student and teacher."""
    gamma: float = 1.0
    """pix2pix: γ·(cGAN + λ·L1) + (1 − γ)·content; 1 leaves the content loss out."""
    mode_seeking: float = 0.0
    """Weight of the mode-seeking term (MSGAN): two noises must give two pictures."""
    latent: float = 0.0
    """Weight of latent regression (BicycleGAN): the noise must be readable from the picture."""
    output_matching: float = 0.0
    """distillation: weight of the difference between the student's chroma and the teacher's."""
    feature_matching: float = 0.0
    """distillation: weight of the difference between their features, at `teacher.points`."""
    hints: float = 0.0
    """pix2pix: weight of an ImageNet classifier's hints of the picture in colour, at `classifier.point`."""
    classes: float = 0.0
    """pix2pix: weight of knowing, from gray, the classes that an ImageNet classifier sees in the picture in colour."""
    overuse: float = 0.0
    """Weight of the term that drives the generator away from colours it has used more often than the truth does."""
    r1: float = 0.0
    """Weight of R1 (Mescheder et al., 2018): the discriminator's squared gradient at real pictures."""

    @property
    def terms(self) -> dict[str, float]:
        """The weights of all terms, by name."""
        weights = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        return {name: weight for name, weight in weights.items() if name not in ("vivid", "gamma")}


@dataclass(frozen=True)
class Features:
    """The VGG-19 whose features the perceptual terms compare."""

    weights: str = "imagenet"
    """imagenet: torchvision's standard weights, fetched on first use; or a file of weights: see `features.load`."""
    layers: tuple[str, ...] = ("relu2_2",)
    """Names as in relu2_2: after the second convolution of the second block, before its max-pooling."""


@dataclass(frozen=True)
class Classifier:
    """The ImageNet classifier, a SqueezeNet v1.0, that teaches what there is to be seen: see `lessons.Lessons`."""

    weights: str = "imagenet"
    """imagenet: torchvision's standard weights, fetched on first use; or a file of weights: see `classifier.load`."""
    point: str = ""
    """Behind which block of the generator it is listened to; a wrong name is answered with those there are."""


@dataclass(frozen=True)
class Point:
    """Where features of student and teacher are compared: behind which block of each, by its name in the network."""

    student: str
    teacher: str


@dataclass(frozen=True)
class Teacher:
    """distillation: the trained generator that a light one learns from."""

    run: str = ""
    """The folder of the training run that made it; its averaged weights are what teaches."""
    step: int = 0
    sha256: str = ""
    """Of its weights, with the step they are of. A run writes both down, and is resumed with this teacher alone; a
    recipe that states them is refused any other. Left open, the folder's newest checkpoint is taken."""
    points: tuple[Point, ...] = ()
    """Where `loss.feature_matching` compares; a wrong name is answered with those there are."""


@dataclass(frozen=True)
class Optimizer:
    """Adam for all networks, then a straight fall of the learning rate to zero."""

    lr: float = 2e-4
    """Learning rate of the generators."""
    discriminator_lr: float = 2e-4
    """Learning rate of the discriminators: another than `lr` makes two time scales (Heusel et al., 2017)."""
    beta1: float = 0.5
    beta2: float = 0.999
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    decay_from: float = 0.5
    """Share of the run after which the learning rate falls linearly to zero."""
    clip: float = 0.0
    """Largest norm of a network's gradients; 0 leaves them as they are."""
    ema: float = 0.999
    """Decay per step of the running average of the generator's weights, which is what gets exported."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the run at one size. Several make progressive resizing: weights and optimizers carry over."""

    size: int = 128
    """Side of the square training crop, in pixels; a multiple of the generator's size multiple."""
    batch: int = 16
    """Pictures per step, over all processes."""
    steps: int = 0
    epochs: float = 0.0
    """Passes over the colour stills, instead of `steps`; where gray is made from half of them, over the other half."""
    lr: float = 1.0
    """Factor on both learning rates."""


@dataclass(frozen=True)
class FilmStock:
    """How a colour still becomes gray: `film_stock.expose` explains each. Ranges are drawn from per picture."""

    probability: float = 0.8
    """Share of pictures that get any wear; the others are plain Rec.601 luma."""
    spectral: float = 0.5
    """Share of worn pictures exposed with random spectral weights instead of Rec.601's."""
    gamma: float = 0.3
    """Log-range of the contrast curve: exponent within exp(±this)."""
    fade: float = 0.2
    """Most that black may rise and white may sink, in units of full scale."""
    blur: float = 1.2
    """Largest standard deviation of the blur, in pixels."""
    grain: float = 0.08
    """Largest standard deviation of the grain, in units of full scale."""
    jpeg: float = 0.4
    """Share of worn pictures that also went through JPEG at a quality of 30 to 90."""


@dataclass(frozen=True)
class Data:
    """What is drawn from the stills."""

    zoom: float = 0.6
    """Smallest crop, as a share of the still's short side; the largest is the whole short side."""
    balance: float = 0.5
    """0 draws every still equally often, 1 every folder equally often, between is between."""
    workers: int = 1
    """Processes that read and crop stills."""
    keep_color: bool = False
    """cyclegan: take the pictures given with --gray as they are, to translate between any two sets of pictures."""


@dataclass(frozen=True)
class Recipe:
    """A training run, whole: the same recipe, data and seed give the same weights on the same machine."""

    system: str
    """A key of `systems.SYSTEMS`."""
    about: str = ""
    """One line for people."""
    start: str = ""
    """Folder of a training run whose averaged generator this one starts from, to carry its learning over to other
    stills or another loss. Layers that it has not, or has in another shape, start anew."""
    seed: int = 1
    color_to_gray: str = "arithmetic"
    """cyclegan, the way back: network (the faithful CycleGAN) or arithmetic (gray is a weighted sum; half the cost)."""
    precision: str = "fp32"
    """fp32, or bf16: matrix work in bfloat16, weights and optimizer in fp32. fp16 would need its losses scaled."""
    compile: bool = False
    """Let torch.compile fuse the networks: a minute at the start of each phase, faster steps after."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 500
    """Steps between sample sheets."""
    phases: tuple[Phase, ...] = ()
    data: Data = field(default_factory=Data)
    film_stock: FilmStock = field(default_factory=FilmStock)
    generator: Generator = field(default_factory=Generator)
    discriminator: Discriminator = field(default_factory=Discriminator)
    loss: Loss = field(default_factory=Loss)
    features: Features = field(default_factory=Features)
    classifier: Classifier = field(default_factory=Classifier)
    teacher: Teacher = field(default_factory=Teacher)
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        choices = {
            "precision": (self.precision, ("fp32", "bf16")),
            "color_to_gray": (self.color_to_gray, ("network", "arithmetic")),
            "generator.paints": (self.generator.paints, ("chroma", "picture")),
            "generator.norm": (self.generator.norm, ("instance", "batch", "conditional")),
            "generator.upsample": (self.generator.upsample, ("transposed", "resize")),
            "discriminator.norm": (self.discriminator.norm, ("instance", "batch")),
            "loss.adversarial_form": (self.loss.adversarial_form, ("least-squares", "bce", "mse")),
            "loss.cycle_form": (self.loss.cycle_form, ("l1", "l2")),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise BadRecipe(f"{name} must be one of {', '.join(allowed)}, not {value!r}{_nearest(value, allowed)}")
        if not self.phases:
            raise BadRecipe("a recipe needs at least one [[phases]] section, with size, batch and steps or epochs")
        counts: dict[str, tuple[object, tuple[str, ...]]] = {
            "": (self, ("checkpoint_every", "sample_every")),
            "generator.": (self.generator, ("width", "depth")),
            "discriminator.": (self.discriminator, ("width", "layers", "capsules", "routing")),
        }
        counts |= {f"phases.{index}.": (phase, ("size", "batch")) for index, phase in enumerate(self.phases)}
        for section, (settings, names) in counts.items():
            for name in names:
                if getattr(settings, name) < 1:
                    raise BadRecipe(f"{section}{name} must be at least 1, not {getattr(settings, name)}")
        for index, phase in enumerate(self.phases):
            if (phase.steps > 0) == (phase.epochs > 0):
                raise BadRecipe(f"phases.{index} needs either steps or epochs, above 0")
        if (self.generator.norm == "conditional") != (self.generator.noise > 0):
            raise BadRecipe(
                f"generator.norm {self.generator.norm!r} with generator.noise {self.generator.noise}: "
                "noise enters through norm 'conditional', and through nothing else"
            )
        shares = {
            **{f"film_stock.{name}": getattr(self.film_stock, name) for name in ("probability", "spectral", "jpeg")},
            "loss.gamma": self.loss.gamma,
            "generator.dropout": self.generator.dropout,
            "optimizer.ema": self.optimizer.ema,
            "optimizer.decay_from": self.optimizer.decay_from,
        }
        for name, share in shares.items():
            if share > 1:
                raise BadRecipe(f"{name} must lie in 0..1, not {share}")
        for name in ("beta1", "beta2"):
            if getattr(self.optimizer, name) >= 1:
                raise BadRecipe(f"optimizer.{name} must lie in 0..1, 1 excluded, not {getattr(self.optimizer, name)}")
        if not 0 < self.data.zoom <= 1:
            raise BadRecipe(f"data.zoom must lie in 0..1, not {self.data.zoom}")

    @property
    def steps(self) -> int:
        """Steps of the whole run, once `resolved`."""
        return sum(phase.steps for phase in self.phases)

    @property
    def size(self) -> int:
        """Side of the last phase's crops, in pixels: what the generator ends up trained for."""
        return self.phases[-1].size

    def resolved(self, stills: int, steps: int | None = None) -> "Recipe":
        """The recipe with every phase's length in steps, given the number of colour stills.

        Args:
            stills: how many make an epoch.
            steps: length of the whole run, instead of the recipe's: the phases keep their shares of it.

        Raises BadRecipe when there are fewer steps than phases.
        """
        lengths = [phase.steps or max(1, round(phase.epochs * stills / phase.batch)) for phase in self.phases]
        if steps is not None:
            if steps < len(lengths):
                raise BadRecipe(f"--steps {steps} is too few: each of the {len(lengths)} phases needs one")
            lengths = [max(1, round(steps * length / sum(lengths))) for length in lengths]
            lengths[lengths.index(max(lengths))] += steps - sum(lengths)  # what rounding left over
        phases = [
            dataclasses.replace(phase, steps=length, epochs=0.0)
            for phase, length in zip(self.phases, lengths, strict=True)
        ]
        return dataclasses.replace(self, phases=tuple(phases))

    def stretches(self) -> Iterator[tuple[Phase, int, int]]:
        """Each phase with its first step and the step after its last."""
        start = 0
        for phase in self.phases:
            yield phase, start, start + phase.steps
            start += phase.steps


def names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files(__package__) / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name_or_file: str, overrides: typing.Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or from a TOML file, with `path=value` overrides such as `loss.l1=50`.

    Raises BadRecipe, naming the nearest known name for a mistyped recipe or key.
    """
    file = Path(name_or_file)
    if file.suffix == ".toml":
        try:
            text = file.read_text()
        except OSError as error:
            raise BadRecipe(f"recipe file {name_or_file!r} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadRecipe(f"recipe file {name_or_file!r} is no text") from None
    elif name_or_file in names():
        text = (resources.files(__package__) / "recipes" / f"{name_or_file}.toml").read_text()
    else:
        raise BadRecipe(f"no recipe {name_or_file!r}{_nearest(name_or_file, names())}; known: {', '.join(names())}")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRecipe(f"recipe {name_or_file!r} is not valid TOML: {error}") from None
    for override in overrides:
        _override(table, override)
    return from_table(table)


def from_table(table: dict[str, Any]) -> Recipe:
    """Check a nested table (as from TOML or JSON) against the dataclasses."""
    return typing.cast(Recipe, _build(Recipe, table, ""))


def to_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested values that JSON knows; `from_table` takes it back."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(recipe))))


def described(file: Path) -> dict[str, Any]:
    """What a run's recipe.json says. Raises BadRun when it is damaged."""
    try:
        table = json.loads(file.read_text())
        table["recipe"], table["data"]["stills"], table["data"]["colour"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadRun(f"{file} is damaged: remove it if the run's checkpoints are to be used without it") from None
    return typing.cast(dict[str, Any], table)


def _override(table: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise BadRecipe(f"--set takes path=value, such as loss.l1=50, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: people do not quote twice for shell and TOML
    *parents, key = path.split(".")
    place: Any = table
    for parent in parents:
        place = _entry(place, parent, override) if isinstance(place, list) else place.setdefault(parent, {})
        if not isinstance(place, dict | list):
            raise BadRecipe(f"--set {override!r}: {parent!r} is a value, not a section")
    if isinstance(place, list):
        raise BadRecipe(f"--set {override!r}: say which entry, and what of it, as in phases.0.size=64")
    place[key] = value


def _entry(entries: list[Any], index: str, override: str) -> Any:
    if not index.isdecimal() or int(index) >= len(entries):
        raise BadRecipe(f"--set {override!r}: there is no entry {index!r}; they are numbered 0 to {len(entries) - 1}")
    return entries[int(index)]


def _build(cls: type[Any], table: object, where: str) -> object:
    if not isinstance(table, dict):
        raise BadRecipe(f"{where.rstrip('.')} is a section, not a value")
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in hints:
            raise BadRecipe(f"unknown setting {where + key!r}{_nearest(key, hints)}")
    values = {key: _value(hints[key], value, where + key) for key, value in table.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise BadRecipe(f"recipe: {error}") from None


def _value(hint: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, where + ".")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise BadRecipe(f"{where} must be a list, not {value!r}")
        inside = typing.get_args(hint)[0]
        return tuple(_value(inside, entry, f"{where}.{index}") for index, entry in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise BadRecipe(f"{where} must be {hint.__name__}, not {value!r}")
    if isinstance(value, int | float) and value < 0:
        raise BadRecipe(f"{where} must not be negative, not {value!r}")
    return value


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

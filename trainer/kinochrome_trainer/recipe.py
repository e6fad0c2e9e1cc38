"""Recipes: everything that decides what a training run does, as frozen dataclasses read from TOML."""

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from .errors import BadRecipe


@dataclass(frozen=True)
class Generator:
    """The network that paints."""

    name: str = "light-unet"
    """A key of `networks.GENERATORS`."""
    width: int = 48
    """Channels of the first level; each deeper level doubles them, up to eight times this."""
    depth: int = 3
    """How many times the features are halved in size after the first level."""
    dropout: float = 0.0
    """Share of features dropped in the deepest decoder levels while training, 0..1."""


@dataclass(frozen=True)
class Discriminator:
    """The network that judges (gray, chroma) pairs."""

    width: int = 64
    """Channels of the first layer."""
    layers: int = 3
    """Stride-2 convolutions before the last two of stride 1 (PatchGAN: 3)."""


@dataclass(frozen=True)
class Loss:
    """Weights of the terms of the generator's loss."""

    l1: float = 100.0
    """λ of the paired L1 term (pix2pix: 100)."""
    vivid: float = 0.0
    """How much more a pixel counts as its true colour is stronger, against brownish averages; 0 = plain L1."""
    adversarial: float = 1.0
    """Weight of the least-squares conditional adversarial term; 0 leaves the discriminator out."""
    adversarial_from: int = 0
    """First step at which the adversarial term counts: the generator learns plain colour before."""


@dataclass(frozen=True)
class Optimizer:
    """Adam for both networks, then a straight fall of the learning rate to zero."""

    lr: float = 2e-4
    """Learning rate of the generator."""
    discriminator_lr: float = 2e-4
    """Learning rate of the discriminator."""
    beta1: float = 0.5
    beta2: float = 0.999
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    decay_from: float = 0.5
    """Share of the run after which the learning rate falls linearly to zero."""
    ema: float = 0.999
    """Decay per step of the running average of the generator's weights, which is what gets exported."""


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

    size: int = 128
    """Side of the square training crop, in pixels; a multiple of the generator's size multiple."""
    zoom: float = 0.6
    """Smallest crop, as a share of the still's short side; the largest is the whole short side."""
    balance: float = 0.5
    """0 draws every still equally often, 1 every folder equally often, between is between."""
    workers: int = 1
    """Processes that read and crop stills."""


@dataclass(frozen=True)
class Recipe:
    """A training run, whole: the same recipe, data and seed give the same weights on the same machine."""

    system: str
    """A key of `systems.SYSTEMS`."""
    about: str = ""
    """One line for people."""
    seed: int = 1
    steps: int = 10_000
    batch: int = 16
    precision: str = "fp32"
    """fp32, or bf16: matrix work in bfloat16, weights and optimizer in fp32."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 500
    """Steps between sample sheets."""
    data: Data = field(default_factory=Data)
    film_stock: FilmStock = field(default_factory=FilmStock)
    generator: Generator = field(default_factory=Generator)
    discriminator: Discriminator = field(default_factory=Discriminator)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise BadRecipe(f"precision must be fp32 or bf16, not {self.precision!r}")
        counts = {
            "": (self, ("steps", "batch", "checkpoint_every", "sample_every")),
            "data.": (self.data, ("size",)),
            "generator.": (self.generator, ("width", "depth")),
            "discriminator.": (self.discriminator, ("width", "layers")),
        }
        for section, (settings, names) in counts.items():
            for name in names:
                if getattr(settings, name) < 1:
                    raise BadRecipe(f"{section}{name} must be at least 1, not {getattr(settings, name)}")
        for name in ("probability", "spectral", "jpeg"):
            if not 0 <= getattr(self.film_stock, name) <= 1:
                raise BadRecipe(f"film_stock.{name} must lie in 0..1, not {getattr(self.film_stock, name)}")
        if not 0 < self.data.zoom <= 1:
            raise BadRecipe(f"data.zoom must lie in 0..1, not {self.data.zoom}")


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
    """The recipe as nested plain values; `from_table` takes it back."""
    return dataclasses.asdict(recipe)


def _override(table: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise BadRecipe(f"--set takes path=value, such as loss.l1=50, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: people do not quote twice for shell and TOML
    *parents, key = path.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise BadRecipe(f"--set {override!r}: {parent!r} is a value, not a section")
    table[key] = value


def _build(cls: type[Any], table: dict[str, Any], where: str) -> object:
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


def _value(hint: type[Any] | types.UnionType, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), typing.cast(dict[str, Any], value), where + ".")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, typing.cast(type[Any], hint)) or (hint is not bool and isinstance(value, bool)):
        raise BadRecipe(f"{where} must be {typing.cast(type[Any], hint).__name__}, not {value!r}")
    if isinstance(value, int | float) and value < 0:
        raise BadRecipe(f"{where} must not be negative, not {value!r}")
    return value


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

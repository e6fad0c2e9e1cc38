"""The family compared: every system trained on the same stills, for the same steps, from the same seed, and measured.

    python -m benchmarks.family --budget 60 --out runs/family --scenes SCENES.zip --vgg VGG19.pth \\
        --gray OLD_FILM_FRAMES --color COLOUR_FILM_FRAMES --classifier SQUEEZENET.pth

What is compared is small, so that a study fits into an hour on two CPU cores: 64 pixels, narrow networks, a few
thousand pictures. It tells what a choice does early in training; it does not tell how good the systems get.

First each variant's cost of a step is measured, then all get as many steps as the budget has room for; the pair that
compares progressive resizing with a fixed size gets the same processor time instead. Runs go side by side, one process
and one thread each, and are resumed if this command is given again. The folder then holds each run with its report,
`family.json`, `family.md` (the table), and sheets: one per question, variants side by side.

Every tenth scene is held out and measured on; of the colour film every fifth frame.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from kinochrome_trainer import checkpoint, classifier, evaluation, loop, metrics, recipe, systems
from kinochrome_trainer.colour import luma_of, ycbcr_to_rgb
from kinochrome_trainer.recipe import Recipe
from kinochrome_trainer.stills import Stills, to_tensor
from kinochrome_trainer.system import Batch

from .photographs import photograph

SIZE = 64
LONG_SIZE = 128  # the last phase of progressive resizing, and the fixed size beside it
BATCH = 4
PHOTOGRAPHS = ("coffee", "chelsea", "astronaut", "rocket")  # of the sheets that may be published
COMMON = (
    "generator.width=16",
    "discriminator.width=16",
    "optimizer.lr=5e-4",
    "optimizer.discriminator_lr=5e-4",
    "optimizer.ema=0.99",
    "film_stock.probability=0",
    "data.zoom=0.8",
    "data.workers=0",
    "checkpoint_every=100",
    "sample_every=400",
)
ARITHMETIC = ("color_to_gray=arithmetic",)
UNET = ("generator.depth=6",)


@dataclass(frozen=True)
class Variant:
    """A run of the study."""

    recipe: str
    about: str
    overrides: tuple[str, ...] = ()
    film: bool = False
    """Trained on old film and its colour partner, not on scenes."""
    phases: tuple[int, ...] = (SIZE,)
    """Sizes, each for an equal share of the processor time where there are several."""
    equal_time: bool = False
    """Whether its length follows from its processor time, not from the common number of steps."""


VARIANTS = {
    "patch": Variant("cyclegan", "CycleGAN: PatchGAN, L1 cycle, six blocks, colour → gray a network"),
    "stochastic-plain": Variant(
        "cyclegan-stochastic", "noise, nothing that rewards heeding it", ("loss.mode_seeking=0", "loss.latent=0")
    ),
    "stochastic-cured": Variant("cyclegan-stochastic", "noise, mode seeking, latent regression"),
    "capsule-mse": Variant("cyclegan-capsule", "capsule discriminators, MSE", ("discriminator.width=32",)),
    "capsule-bce": Variant(
        "cyclegan-capsule", "capsule discriminators, BCE", ("discriminator.width=32", "loss.adversarial_form=bce")
    ),
    "capsule-patch": Variant("cyclegan-capsule-patch", "capsule discriminators with patch output, MSE"),
    "l2-cycle": Variant("cyclegan", "L2 cycle", ("loss.cycle_form=l2",)),
    "unet": Variant("cyclegan-unet", "U-Net generators", UNET),
    "arithmetic": Variant("cyclegan", "colour → gray as known arithmetic", ARITHMETIC),
    "blocks-3": Variant("cyclegan", "three residual blocks", (*ARITHMETIC, "generator.blocks=3")),
    "blocks-9": Variant("cyclegan", "nine residual blocks", (*ARITHMETIC, "generator.blocks=9")),
    "perceptual": Variant(
        "cyclegan", "perceptual term between picture and cycle", (*ARITHMETIC, "loss.perceptual=1.0")
    ),
    "semi-supervised": Variant("semi-supervised", "unpaired adversarial and cycle terms, paired L1", UNET),
    "pix2pix": Variant("pix2pix", "pairs: L1 and a conditional PatchGAN", (*UNET, "generator.dropout=0")),
    "pix2pix-perceptual": Variant(
        "pix2pix-perceptual", "pairs: the same and a VGG-19 content loss", (*UNET, "generator.dropout=0")
    ),
    "translate": Variant("translate", "batch norm, a price on overused colours", ("data.keep_color=false",)),
    "film-progressive": Variant(
        "cyclegan-progressive",
        f"film, progressive resizing 32, 64, {LONG_SIZE} px",
        ("generator.blocks=6", *ARITHMETIC),
        film=True,
        phases=(32, 64, LONG_SIZE),
        equal_time=True,
    ),
    "film-fixed": Variant(
        "cyclegan-progressive",
        f"film, {LONG_SIZE} px throughout",
        ("generator.blocks=6", *ARITHMETIC),
        film=True,
        phases=(LONG_SIZE,),
        equal_time=True,
    ),
}

QUESTIONS = {
    "discriminator": ("patch", "capsule-mse", "capsule-bce", "capsule-patch"),
    "cycle": ("patch", "l2-cycle"),
    "gray": ("patch", "arithmetic", "unet"),
    "blocks": ("blocks-3", "arithmetic", "blocks-9"),
    "perceptual": ("arithmetic", "perceptual", "pix2pix", "pix2pix-perceptual"),
    "noise": ("arithmetic", "stochastic-plain", "stochastic-cured"),
    "supervision": ("pix2pix", "patch", "semi-supervised", "translate"),
    "resizing": ("film-progressive", "film-fixed"),
}
"""What is asked, and the variants that answer it: a sheet each."""


@dataclass(frozen=True)
class Study:
    """Where everything lies."""

    out: Path
    vgg: str
    classifier: str | None

    def data(self, variant: Variant) -> tuple[Path, Path | None, Path]:
        """Colour stills, gray stills, held-out colour stills."""
        kind = "film" if variant.film else "scenes"
        gray = self.out / "data" / "film-gray.zip" if variant.film else None
        return self.out / "data" / f"{kind}.zip", gray, self.out / "data" / f"{kind}-held-out.zip"

    def recipe(self, variant: Variant, steps: Sequence[int]) -> Recipe:
        """The variant's recipe with these steps for each of its phases."""
        phases = ", ".join(
            f"{{size={size}, batch={BATCH}, steps={count}}}" for size, count in zip(variant.phases, steps, strict=True)
        )
        features = [f"features.weights={self.vgg}", 'features.layers=["relu2_2"]']
        return recipe.load(variant.recipe, [*COMMON, *features, f"phases=[{phases}]", *variant.overrides])


def split(source: Path, prefix: str, train: Path, held_out: Path, every: int) -> None:
    """Stills of a folder or archive whose path starts with `prefix`, every `every`-th into `held_out`."""
    stills = Stills([source])
    train.parent.mkdir(parents=True, exist_ok=True)
    chosen = [(place, name) for place, name in stills.entries if name.startswith(prefix)]
    with zipfile.ZipFile(train, "w") as learnt, zipfile.ZipFile(held_out, "w") as measured:
        for index, (place, name) in enumerate(chosen):
            if place.is_dir():
                content = (place / name).read_bytes()
            else:
                with zipfile.ZipFile(place) as archive:
                    content = archive.read(name)
            (measured if index % every == every - 1 else learnt).writestr(name, content)


def seconds_per_step(study: Study, variant: Variant, size: int) -> float:
    """Processor time of one step, in this process on one thread."""
    chosen = study.recipe(variant, [100] * len(variant.phases))
    system = systems.build(chosen)
    gray = torch.rand(BATCH, 1, size, size).expand(-1, 3, -1, -1).contiguous() if system.UNPAIRED else None
    batch = Batch(torch.rand(BATCH, 3, size, size), gray, gray_is_real=True)
    taken = []
    for step in range(10):
        started = time.process_time()
        system.step(batch, step, torch.Generator().manual_seed(step))
        taken.append(time.process_time() - started)
    return statistics.median(taken[2:])


def lengths(study: Study, budget: float) -> dict[str, list[int]]:
    """Steps of each phase of each variant, so that all together take `budget` seconds of processor time."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    costs = {
        name: [seconds_per_step(study, variant, size) for size in variant.phases] for name, variant in VARIANTS.items()
    }
    timed = [name for name, variant in VARIANTS.items() if variant.equal_time]
    share = budget / len(VARIANTS)  # processor time of each of those that get the same time
    steps = int((budget - share * len(timed)) / sum(cost[0] for name, cost in costs.items() if name not in timed))
    return {
        name: [max(1, int(share / len(cost) / each)) for each in cost] if name in timed else [steps]
        for name, cost in costs.items()
    }


def run_one(study: Study, name: str, steps: list[int]) -> None:
    """Train and measure one variant, or carry it on; its figures go into its folder."""
    torch.set_num_threads(1)
    variant, run = VARIANTS[name], study.out / name
    colour, gray, held_out = study.data(variant)
    chosen = study.recipe(variant, steps)
    resume = bool(checkpoint.checkpoints(run / "checkpoints"))
    if run.exists() and not resume:
        shutil.rmtree(run)  # stopped before its first checkpoint
    started = time.process_time()
    loop.train(
        chosen,
        run,
        colour=[colour],
        gray=[gray] if gray else [],
        resume=resume,
        machine=loop.Machine("cpu"),
    )
    trained = time.process_time() - started
    painter, _, step = checkpoint.painter(checkpoint.latest(run))
    judge = classifier.load(study.classifier) if study.classifier else None
    found = evaluation.evaluate(painter, Stills([held_out]), chosen.size, classifier=judge)
    table = {"step": step, "cpu_seconds": None if resume else trained, **found.plain()}
    (run / "figures.json").write_text(json.dumps(table, indent=2) + "\n")


def run_all(study: Study, plan: dict[str, list[int]], processes: int) -> None:
    """Every variant that has no figures yet, `processes` at a time."""
    waiting = [name for name in VARIANTS if not (study.out / name / "figures.json").exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                name = waiting.pop(0)
                print(f"{time.strftime('%H:%M:%S')} {name}: {plan[name]} steps", flush=True)
                command = [sys.executable, "-m", "benchmarks.family", *sys.argv[1:], "--one", name]
                log = (study.out / f"{name}.log").open("wb")
                running[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode:
                        raise SystemExit(f"{name} failed: see {study.out / name}.log")
            time.sleep(1)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


COLUMNS = ("psnr", "sum_at_128", "delta_e2000", "colourfulness", "within", "recognition", "diversity")


def table(study: Study) -> str:
    """The figures of all variants, in Markdown."""
    rows = {name: json.loads((study.out / name / "figures.json").read_text()) for name in VARIANTS}
    (study.out / "family.json").write_text(json.dumps(rows, indent=2) + "\n")
    heads = [evaluation.LABELS[column].text for column in COLUMNS]
    lines = [f"| variant | steps | processor, s | {' | '.join(heads)} |", "|---|--:|--:|" + "--:|" * len(heads)]

    def line(name: str, steps: str, seconds: float | None, figures: dict[str, Any], spans: dict[str, Any]) -> str:
        cells = []
        for column in COLUMNS:
            label, value = evaluation.LABELS[column], figures.get(column)
            low, high = spans.get(column, (0.0, 0.0))
            half = f" ± {(high - low) / 2 * label.scale:.{label.digits}f}" if column in ("psnr", "sum_at_128") else ""
            cells.append("" if value is None else f"{value * label.scale:.{label.digits}f}{half}")
        spent = "" if seconds is None else f"{seconds:.0f}"
        return f"| {name} | {steps} | {spent} | {' | '.join(cells)} |"

    for film in (False, True):
        members = [name for name, variant in VARIANTS.items() if variant.film == film]
        first = rows[members[0]]
        for base in ("gray", "mean_chroma", "nearest_neighbour", "truth"):
            lines.append(line(f"*{base.replace('_', ' ')}*", "", None, first[base], first["intervals"][base]))
        for name in members:
            row = rows[name]
            lines.append(line(name, str(row["step"]), row["cpu_seconds"], row["ours"], row["intervals"]["ours"]))
    return "\n".join(lines) + "\n"


PANEL = 128  # pixels of a sheet's pictures
HEAD = 18  # pixels of a sheet's captions


def sheet(study: Study, names: Sequence[str], pictures: Sequence[torch.Tensor]) -> Image.Image:
    """Pictures (1, 3, H, W) down, variants across: gray, each variant (stochastic ones thrice), truth."""
    columns: list[tuple[str, list[torch.Tensor]]] = [("gray", [luma_of(rgb).expand_as(rgb) for rgb in pictures])]
    for name in names:
        painter, chosen, _ = checkpoint.painter(checkpoint.latest(study.out / name))
        for seed in range(3 if painter.noise_length else 1):
            noise = metrics.noise(painter, seed)
            panels = [
                ycbcr_to_rgb(luma_of(rgb), metrics.paint(painter, luma_of(rgb), chosen.size, noise)) for rgb in pictures
            ]
            columns.append((f"{name} {seed}" if painter.noise_length else name, panels))
    columns.append(("truth", list(pictures)))
    page = Image.new("RGB", (PANEL * len(columns), HEAD + PANEL * len(pictures)), "white")
    draw = ImageDraw.Draw(page)
    for across, (caption, panels) in enumerate(columns):
        draw.text((across * PANEL + 3, 3), caption, fill="black")
        for down, panel in enumerate(panels):
            pixels = (panel[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            picture = Image.fromarray(pixels)
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.crop((left, top, left + side, top + side)).resize((PANEL, PANEL))
            page.paste(square, (across * PANEL, HEAD + down * PANEL))
    return page


def sheets(study: Study) -> None:
    """Two sheets for each question: of held-out stills, and of photographs that scikit-image ships."""
    ours = [to_tensor(Image.fromarray(photograph(name))).unsqueeze(0).float() / 255 for name in PHOTOGRAPHS]
    for question, names in QUESTIONS.items():
        _, gray, held_out = study.data(VARIANTS[names[0]])
        shown = _spread(Stills([held_out]), 8) + (_spread(Stills([gray]), 5) if gray else [])
        sheet(study, names, shown).save(study.out / f"{question}.png")
        sheet(study, names, ours).save(study.out / f"photographs-{question}.jpg", quality=88)


def _spread(stills: Stills, count: int) -> list[torch.Tensor]:
    places = [math.floor((index + 0.5) * len(stills) / count) for index in range(count)]
    return [to_tensor(stills.open(place)).unsqueeze(0).float() / 255 for place in places]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the study's folder")
    parser.add_argument("--budget", type=float, required=True, help="minutes that training may take")
    parser.add_argument("--scenes", type=Path, required=True, help="folder or zip of colour stills of one kind")
    parser.add_argument("--only", default="", help="take those of them whose path starts so")
    parser.add_argument("--gray", type=Path, required=True, help="folder or zip of black-and-white film frames")
    parser.add_argument("--gray-only", default="", help="take those of them whose path starts so")
    parser.add_argument("--color", type=Path, required=True, help="folder or zip of colour film frames")
    parser.add_argument("--vgg", default="imagenet", help="VGG-19 weights: a file, or imagenet to have them fetched")
    parser.add_argument("--classifier", help="SqueezeNet weights, for recognition: a file or imagenet")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    study = Study(args.out, args.vgg, args.classifier)
    plan_file = args.out / "plan.json"
    if args.one:
        run_one(study, args.one, json.loads(plan_file.read_text())[args.one])
        return
    if not plan_file.exists():
        data = args.out / "data"
        split(args.scenes, args.only, data / "scenes.zip", data / "scenes-held-out.zip", 10)
        split(args.color, "", data / "film.zip", data / "film-held-out.zip", 5)
        split(args.gray, args.gray_only, data / "film-gray.zip", data / "film-gray-unused.zip", 10**9)
        plan = lengths(study, args.budget * 60 * args.processes)
        plan_file.write_text(json.dumps(plan, indent=2) + "\n")
    run_all(study, json.loads(plan_file.read_text()), args.processes)
    text = table(study)
    (args.out / "family.md").write_text(text)
    print(text)
    sheets(study)


if __name__ == "__main__":
    main()

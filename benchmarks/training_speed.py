"""Training speed: this trainer beside a plain PyTorch loop of the same networks, in one run.

    python -m benchmarks.training_speed --json training.json

The plain loop is CycleGAN written as most people write it: nn.Sequential networks (reflection padding layers, instance
norm), six generator passes one after the other, Adam as it comes. Its networks have the very layers of the recipe
`cyclegan`: the numbers of weights are compared before anything is timed. Both get the same random pictures, already in
memory, so no data loading is measured. Steps of the two alternate, and of each the median counts, since other work on
the machine comes and goes.

Rows: the recipe as it is; and with `color_to_gray=arithmetic`, which leaves out the networks that would have to learn
a weighted sum (not the same networks any more: that is its point). `--compile` adds both with `compile=true`.
"""

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from kinochrome_trainer import recipe, systems
from kinochrome_trainer.system import Batch, System

ROWS = {"as it is": (), "arithmetic": ("color_to_gray=arithmetic",)}
COMPILED = {"compile": ("compile=true",), "arithmetic, compile": ("color_to_gray=arithmetic", "compile=true")}


def plain_generator(width: int, blocks: int) -> nn.Sequential:
    """CycleGAN's ResNet generator, as a list of layers."""

    class ResidualBlock(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.ReflectionPad2d(1),
                nn.Conv2d(channels, channels, 3, bias=False),
                nn.InstanceNorm2d(channels),
                nn.ReLU(True),
                nn.ReflectionPad2d(1),
                nn.Conv2d(channels, channels, 3, bias=False),
                nn.InstanceNorm2d(channels),
            )

        def forward(self, x: Tensor) -> Tensor:
            changed: Tensor = self.layers(x)
            return x + changed

    def down(inside: int, outside: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inside, outside, 3, 2, 1, bias=False, padding_mode="reflect")
        return [convolution, nn.InstanceNorm2d(outside), nn.ReLU(True)]

    def up(inside: int, outside: int) -> list[nn.Module]:
        convolution = nn.ConvTranspose2d(inside, outside, 3, 2, 1, output_padding=1, bias=False)
        return [convolution, nn.InstanceNorm2d(outside), nn.ReLU(True)]

    return nn.Sequential(
        *[nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7, bias=False), nn.InstanceNorm2d(width), nn.ReLU(True)],
        *down(width, 2 * width),
        *down(2 * width, 4 * width),
        *[ResidualBlock(4 * width) for _ in range(blocks)],
        *up(4 * width, 2 * width),
        *up(2 * width, width),
        *[nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()],
    )


def plain_discriminator(width: int) -> nn.Sequential:
    """The 70x70 PatchGAN."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for inside, outside, stride in ((width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 8 * width, 1)):
        layers += [
            nn.Conv2d(inside, outside, 4, stride, 1, bias=False),
            nn.InstanceNorm2d(outside, affine=True),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))


class PlainCycleGAN:
    """The textbook loop."""

    def __init__(self, width: int, blocks: int, judge_width: int) -> None:
        self.g, self.f = plain_generator(width, blocks), plain_generator(width, blocks)
        self.d_x, self.d_y = plain_discriminator(judge_width), plain_discriminator(judge_width)
        self.generators = torch.optim.Adam(
            itertools.chain(self.g.parameters(), self.f.parameters()), 2e-4, betas=(0.5, 0.999)
        )
        self.judges = torch.optim.Adam(
            itertools.chain(self.d_x.parameters(), self.d_y.parameters()), 2e-4, betas=(0.5, 0.999)
        )
        self.pools: dict[str, list[Tensor]] = {"x": [], "y": []}

    def networks(self) -> list[nn.Module]:
        return [self.g, self.f, self.d_x, self.d_y]

    def step(self, x: Tensor, y: Tensor) -> None:
        """One update from pictures (N, 3, H, W) in -1..1."""
        l1, mse = nn.L1Loss(), nn.MSELoss()
        fake_y, fake_x = self.g(x), self.f(y)
        score_y, score_x = self.d_y(fake_y), self.d_x(fake_x)
        adversarial = mse(score_y, torch.ones_like(score_y)) + mse(score_x, torch.ones_like(score_x))
        cycle = l1(self.f(fake_y), x) + l1(self.g(fake_x), y)
        identity = l1(self.g(y), y) + l1(self.f(x), x)
        self.generators.zero_grad()
        (adversarial + 10 * cycle + 5 * identity).backward()
        self.generators.step()
        self.judges.zero_grad()
        for judge, real, fake, name in ((self.d_y, y, fake_y, "y"), (self.d_x, x, fake_x, "x")):
            real_score, fake_score = judge(real), judge(self.pooled(name, fake.detach()))
            loss = mse(real_score, torch.ones_like(real_score)) + mse(fake_score, torch.zeros_like(fake_score))
            (0.5 * loss).backward()
        self.judges.step()

    def pooled(self, name: str, fake: Tensor) -> Tensor:
        """The history of 50 pictures."""
        pool, chosen = self.pools[name], []
        for picture in fake:
            if len(pool) < 50:
                pool.append(picture)
                chosen.append(picture)
            elif random.random() < 0.5:
                place = random.randrange(50)
                chosen.append(pool[place])
                pool[place] = picture
            else:
                chosen.append(picture)
        return torch.stack(chosen)


def weights(networks: list[nn.Module]) -> int:
    """How many numbers the networks learn."""
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def learnt(system: System) -> list[nn.Module]:
    """A system's networks."""
    return [module for name in system.optimizers if isinstance(module := system.modules[name], nn.Module)]


def measure(size: int, batch: int, width: int, seconds: float, rows: dict[str, tuple[str, ...]]) -> dict[str, object]:
    """Pictures per second of the plain loop and of each row, and their ratios."""
    torch.manual_seed(0)
    x, y = torch.rand(batch, 1, size, size).expand(-1, 3, -1, -1).contiguous(), torch.rand(batch, 3, size, size)
    overrides = [f"phases.0.batch={batch}", f"phases.0.size={size}", "phases.0.epochs=0", "phases.0.steps=1000"]
    overrides += [f"generator.width={width}", f"discriminator.width={width}"]
    plain = PlainCycleGAN(width, 6, width)
    runs: dict[str, Callable[[], object]] = {"plain": lambda: plain.step(2 * x - 1, 2 * y - 1)}
    for name, more in rows.items():
        system = systems.build(recipe.load("cyclegan", [*overrides, *more]))
        if "arithmetic" not in name:
            assert weights(learnt(system)) == weights(plain.networks()), "not the same networks"
        runs[name] = stepper(system, Batch(y, x, gray_is_real=True))
    for run in runs.values():  # compiling, memory, the kernels' choices
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = time.monotonic()
    while time.monotonic() - started < seconds or len(times["plain"]) < 5:
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    speed = {name: batch / statistics.median(taken) for name, taken in times.items()}
    return {
        "size": size,
        "batch": batch,
        "width": width,
        "rounds": len(times["plain"]),
        "pictures_per_second": speed,
        "times_plain": {name: value / speed["plain"] for name, value in speed.items() if name != "plain"},
    }


def stepper(system: System, batch: Batch) -> Callable[[], object]:
    """One step of a system, always on the same batch."""
    return lambda: system.step(batch, 0, torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--width", type=int, default=64, help="channels of the first layers; 64: the recipe's")
    parser.add_argument("--seconds", type=float, default=60, help="how long to measure, for each batch size")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0: as many as it takes")
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile too")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = ROWS | (COMPILED if args.compile else {})
    found = [measure(args.size, batch, args.width, args.seconds, rows) for batch in args.batches]
    text = json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": found}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

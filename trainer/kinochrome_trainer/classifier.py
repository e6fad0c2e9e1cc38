"""SqueezeNet v1.0 (Iandola et al., 2016), an ImageNet classifier that judges pictures: what it takes them for, and
how far apart its features are."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import pretrained
from .errors import BadWeights

URL = "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth"
"""torchvision's ImageNet weights; the name ends in the start of the file's SHA-256, which is checked."""

SHORT_SIDE = 256  # pixels to which a picture's short side is brought before the crop
CLASSES = 1000
CHANNELS = 512  # of the last features
_FIRES = {2: (96, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128)}
_FIRES |= {6: (256, 48, 192), 7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}
"""Channels in, squeezed, and in each of the two halves that come out."""
_LAST = max(_FIRES)
_POOLED_BEFORE = (2, 5, 9)  # fire modules that a max-pooling comes before
_FEATURES_AFTER = (3, 5, 6, 7, 8, 9)  # fire modules after which LPIPS reads a SqueezeNet; it reads conv1 too
# Where torchvision's state dict keeps each layer.
_TORCHVISION = {"conv1": "features.0", "conv10": "classifier.1"}
_TORCHVISION |= {f"fire{n}": f"features.{place}" for n, place in zip(_FIRES, (3, 4, 5, 7, 8, 9, 10, 12), strict=True)}
_EXPAND = {"e1": "expand1x1", "e3": "expand3x3"}


@dataclass(frozen=True)
class Seen:
    """What the classifier made of a batch of pictures."""

    logits: Tensor
    """(N, CLASSES)"""
    features: list[Tensor]
    """Of each layer (N, C, h, w), brought to unit length over C at each place."""

    def distance_to_first(self) -> Tensor:
        """(N,): mean over layers and places of the squared distance between unit features of a picture and the first.

        That is LPIPS (Zhang et al., 2018, equation 1) without its learnt weights on channels, and with the layers'
        mean in place of their sum. From 0, the same, to 2, features at right angles everywhere.
        """
        return torch.stack([(unit - unit[:1]).square().sum(1).mean((1, 2)) for unit in self.features]).mean(0)


class _Fire(nn.Module):
    def __init__(self, inside: int, squeezed: int, half: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inside, squeezed, 1)
        self.e1 = nn.Conv2d(squeezed, half, 1)
        self.e3 = nn.Conv2d(squeezed, half, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat((self.e1(x), self.e3(x)), 1))


class Classifier(nn.Module):
    """A frozen SqueezeNet v1.0 that takes pictures as they are."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: dict[str, Tensor], source: str) -> None:
        """Take a state dict: torchvision's (R'G'B'), or one with Caffe's layer names (B'G'R' in 0..255 less a mean).

        Raises BadWeights, naming `source`, when it is neither.
        """
        super().__init__()
        self.caffe = "conv1.weight" in weights
        self.name = f"SqueezeNet v1.0, {'Caffe' if self.caffe else 'torchvision'} weights"
        self.crop = 227 if self.caffe else 224
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        self.fires = nn.ModuleDict({f"fire{n}": _Fire(*channels) for n, channels in _FIRES.items()})
        self.conv10 = nn.Conv2d(512, CLASSES, 1, padding=1 if self.caffe else 0)
        state: dict[str, Tensor] = {}
        for name, wanted in self.state_dict().items():
            found = weights.get(_name(name, self.caffe))
            if not isinstance(found, Tensor) or found.shape != wanted.shape:
                raise BadWeights(
                    f"{source} holds no SqueezeNet v1.0: its {_name(name, self.caffe)} is missing or of another shape"
                )
            state[name] = found
        self.load_state_dict(state)
        if self.caffe:
            mean, deviation = (104 / 255, 117 / 255, 123 / 255), (1 / 255, 1 / 255, 1 / 255)  # B'G'R'
        else:
            mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, R'G'B'
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def forward(self, rgb: Tensor) -> Seen:
        """Pictures (N, 3, H, W) in 0..1, of which the middle is seen: short side at SHORT_SIDE, then a square crop."""
        layers = self._layers(self._cropped(rgb))
        features = [F.normalize(layers[number]) for number in (1, *_FEATURES_AFTER)]
        return Seen(self._logits(layers[_LAST]), features)

    def read(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """All of pictures (N, 3, H, W) in 0..1, H and W at least 32, as large as they are -> last features
        (N, CHANNELS, about H/16, W/16), and logits (N, CLASSES)."""
        last = self._layers(rgb)[_LAST]
        return last, self._logits(last)

    def _layers(self, rgb: Tensor) -> dict[int, Tensor]:
        """What comes out of each layer: 1 is the first convolution, the others are fire modules by number."""
        ordered = rgb.flip(1) if self.caffe else rgb
        x = (ordered.contiguous(memory_format=torch.channels_last) - self.mean) / self.deviation
        found = {1: F.relu(self.conv1(x))}
        for number in _FIRES:
            x = found[number - 1]
            if number in _POOLED_BEFORE:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            found[number] = self.fires[f"fire{number}"](x)
        return found

    def _logits(self, last: Tensor) -> Tensor:
        return F.relu(self.conv10(last)).mean((2, 3))

    def _cropped(self, rgb: Tensor) -> Tensor:
        """The middle (N, 3, crop, crop)."""
        height, width = rgb.shape[2:]
        scale = SHORT_SIDE / min(height, width)
        shape = [max(self.crop, round(side * scale)) for side in (height, width)]
        brought = F.interpolate(rgb, shape, mode="bilinear", antialias=True)
        top, left = ((side - self.crop) // 2 for side in shape)
        return brought[:, :, top : top + self.crop, left : left + self.crop]


def _name(name: str, caffe: bool) -> str:
    """One of this network's names in a state dict of either kind."""
    name = name.removeprefix("fires.")
    if caffe:
        return name
    layer, *part, kind = name.split(".")
    return ".".join([_TORCHVISION[layer], *(_EXPAND.get(one, one) for one in part), kind])


def load(name: str) -> Classifier:
    """The classifier in a file of weights, or torchvision's by the name `imagenet`, fetched once into torch's hub.

    Raises BadWeights when it cannot be had or is none.
    """
    found, source = pretrained.weights(
        name, url=URL, option="--classifier ", what="SqueezeNet v1.0 (torchvision's squeezenet1_0)"
    )
    return Classifier(found, source)

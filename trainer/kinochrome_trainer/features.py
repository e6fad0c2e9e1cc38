"""VGG-19 (Simonyan and Zisserman, 2015) as a measure of content: features that know textures and things."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import pretrained, recipe
from .errors import BadRecipe, BadWeights

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
"""torchvision's ImageNet weights; the name ends in the start of the file's SHA-256, which is checked."""

_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions before each max-pooling
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, R'G'B' in 0..1
LAYERS = tuple(f"relu{block}_{layer}" for block, (_, count) in enumerate(_BLOCKS, 1) for layer in range(1, count + 1))
# Where each convolution lies in a state dict of torchvision's vgg19 ("features.<n>"), and in one of the normalised
# VGG that style-transfer networks are trained with (Gatys et al., 2015, section "Methods"), counted with its padding.
_TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
_NORMALISED = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)


class Vgg19(nn.Module):
    """Frozen features of R'G'B' pictures (N, 3, H, W) in 0..1, by layer name."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: tuple[str, ...], weights: dict[str, Tensor], source: str) -> None:
        """Raises BadRecipe for a layer that does not exist, BadWeights, naming `source`, for one without weights."""
        super().__init__()
        for layer in layers:
            if layer not in LAYERS:
                raise BadRecipe(f"features.layers: no layer {layer!r}; known: {', '.join(LAYERS)}")
        if not layers:
            raise BadRecipe("features.layers names no layer: relu2_2 is a good one")
        self.layers = layers
        self.normalised = "0.weight" in weights
        names = [f"{n}" for n in _NORMALISED] if self.normalised else [f"features.{n}" for n in _TORCHVISION]
        self.convolutions = nn.ModuleList()
        inside = 3
        wanted = 1 + max(LAYERS.index(layer) for layer in layers)
        channels = [outside for outside, count in _BLOCKS for _ in range(count)]
        for layer, name, outside in zip(LAYERS[:wanted], names, channels, strict=False):
            weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
            if weight is None or bias is None or weight.shape != (outside, inside, 3, 3):
                raise BadWeights(f"features.weights: {source} holds no {layer} of a VGG-19")
            convolution = nn.Conv2d(inside, outside, 3)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions.append(convolution)
            inside = outside
        if self.normalised:  # its first layer, 1x1, brings R'G'B' in 0..1 to B'G'R' in 0..255 less the mean
            self.entry = nn.Conv2d(3, 3, 1)
            self.entry.load_state_dict({"weight": weights["0.weight"], "bias": weights["0.bias"]})
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> each wanted layer's (N, C, H/2^b, W/2^b)."""
        x = self.entry(rgb) if self.normalised else (rgb - self.mean) / self.deviation
        found = {}
        for name, convolution in zip(LAYERS, self.convolutions, strict=False):
            if name.endswith("_1") and name != "relu1_1":
                x = F.max_pool2d(x, 2, ceil_mode=self.normalised)
            padded = F.pad(x, (1, 1, 1, 1), mode="reflect" if self.normalised else "constant")
            x = F.relu(convolution(padded))
            if name in self.layers:
                found[name] = x
        return found


def load(settings: recipe.Features) -> Vgg19:
    """The network that a recipe names.

    `settings.weights` is "imagenet" (torchvision's, fetched once into torch's hub folder) or a file: a state dict
    of torchvision's vgg19, or of the normalised VGG-19 of style transfer, whole or cut off after the layers wanted.

    Raises BadWeights when they cannot be had or do not reach to the layers, BadRecipe for layers that do not exist.
    """
    found, source = pretrained.weights(
        settings.weights, url=URL, option="--set features.weights=", what="VGG-19 (torchvision's vgg19)"
    )
    return Vgg19(settings.layers, found, source)

"""What an ImageNet classifier can teach a generator: to know from gray what the classifier sees in colour.

Colours follow from what things are. A few thousand stills show too few things to learn that from chroma alone; a
classifier has seen more than a million. It teaches while training lasts: nothing of it is in the trained generator.
"""

import torch
from torch import Tensor, nn

from . import classifier, losses, recipe


class Lessons(nn.Module):
    """λ_hints·(1 − cos(W_h·s, t)) + λ_classes·KL(p_t ‖ softmax(W_c·s̄))

    s are the generator's features at `classifier.point`, s̄ their mean over places; t are the classifier's last
    features of the picture in colour, and p_t the classes that it takes it for. The first are the hints of FitNets
    (Romero et al., 2015, equation 3), by angle; the second is ChromaGAN's class distribution loss (Vitoria et al.,
    2020, equation 3). W_h and W_c are learnt.
    """

    def __init__(self, weights: recipe.Loss, settings: recipe.Classifier, channels: int) -> None:
        """channels: of the generator's features. Raises BadWeights when the classifier cannot be had."""
        super().__init__()
        self._weights = weights
        self._teacher = [classifier.load(settings.weights)]  # in a list: a checkpoint need not hold it
        self.hints = nn.Conv2d(channels, classifier.CHANNELS, 1) if weights.hints else None
        self.classes = nn.Linear(channels, classifier.CLASSES) if weights.classes else None

    def forward(self, seen: Tensor, rgb: Tensor) -> dict[str, Tensor]:
        """Features (N, C, h, w), the picture R'G'B' (N, 3, H, W) in 0..1 -> the terms by name, not weighted."""
        (teacher,) = self._teacher
        with torch.no_grad():
            features, logits = teacher.to(rgb.device).read(rgb)
        report = {}
        if self.hints is not None:
            meant = nn.functional.adaptive_avg_pool2d(features, (seen.shape[2], seen.shape[3]))
            report["hints"] = losses.hints(self.hints(seen), meant)
        if self.classes is not None:
            report["classes"] = losses.class_distribution(self.classes(seen.mean((2, 3))), logits)
        return report


def asked(weights: recipe.Loss) -> bool:
    """Whether a recipe's loss has terms that the classifier teaches."""
    return weights.hints > 0 or weights.classes > 0

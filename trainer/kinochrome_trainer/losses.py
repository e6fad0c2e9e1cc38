"""Losses: one function each, reading like its equation. All return a scalar."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def paired_l1(painted: Tensor, truth: Tensor, vivid: float = 0.0) -> Tensor:
    """Mean of w·|painted − truth| over chroma (N, 2, h, w), with w = 1 + vivid·|truth|, mean of w brought to 1.

    |truth| is the distance of the true chroma from gray in tenths of full scale. With vivid = 0 this is the
    L1 of pix2pix; above 0 rare strong colours are not averaged away by the many dull ones (the idea of class
    rebalancing in Zhang et al., 2016, section 2.2, without classes).
    """
    difference = (painted - truth).abs()
    if not vivid:
        return difference.mean()
    weight = 1 + vivid * 10 * truth.square().sum(1, keepdim=True).sqrt()
    return (weight / weight.mean() * difference).mean()


def least_squares(scores: Tensor, target: float) -> Tensor:
    """mean (D(x) − target)²: LSGAN (Mao et al., 2017, equation 9, without its ½)."""
    return (scores - target).square().mean()


def bce(scores: Tensor, target: float) -> Tensor:
    """−mean [target·log σ(D(x)) + (1 − target)·log(1 − σ(D(x)))]: the GAN's own (Goodfellow et al., 2014).

    The generator's side, towards 1, is the form that does not saturate.
    """
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))


def mse(scores: Tensor, target: float) -> Tensor:
    """mean (σ(D(x)) − target)²: least squares behind a sigmoid, for discriminators that end in one."""
    return (scores.sigmoid() - target).square().mean()


ADVERSARIAL: dict[str, Callable[[Tensor, float], Tensor]] = {"least-squares": least_squares, "bce": bce, "mse": mse}


def fooling(fake: Tensor, form: str) -> Tensor:
    """The generator's adversarial loss: fakes are to be taken for real (1)."""
    return ADVERSARIAL[form](fake, 1.0)


def judging(real: Tensor, fake: Tensor, form: str) -> Tensor:
    """½·[towards(D(real), 1) + towards(D(fake), 0)]: halved, as in CycleGAN, to slow the discriminator down."""
    return 0.5 * (ADVERSARIAL[form](real, 1.0) + ADVERSARIAL[form](fake, 0.0))


def cycle(there_and_back: Tensor, start: Tensor, form: str) -> Tensor:
    """mean |F(G(x)) − x|, or its square (CycleGAN: Zhu et al., 2017, equation 2)."""
    return F.l1_loss(there_and_back, start) if form == "l1" else F.mse_loss(there_and_back, start)


def identity(painted: Tensor, already: Tensor) -> Tensor:
    """mean |G(y) − y|: what is in colour already stays as it is (Zhu et al., 2017, section 5.2)."""
    return F.l1_loss(painted, already)


def content(features: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor:
    """Mean over layers of mean (φ(G(x)) − φ(y))²: features before max-pooling (Ledig et al., 2017, equation 5)."""
    return torch.stack([F.mse_loss(features[name], truth[name]) for name in truth]).mean()


def balanced(conditional: Tensor, content: Tensor, gamma: float) -> Tensor:
    """γ·(cGAN + λ·L1) + (1 − γ)·L_X."""
    return gamma * conditional + (1 - gamma) * content


def mode_seeking(first: Tensor, second: Tensor, noise: Tensor, other: Tensor) -> Tensor:
    """1 / (mean |G(x, z₁) − G(x, z₂)| / mean |z₁ − z₂| + 1e-5), per picture (MSGAN: Mao et al., 2019, equation 3)."""
    ratio = (first - second).abs().flatten(1).mean(1) / (noise - other).abs().mean(1)
    return (1 / (ratio + 1e-5)).mean()


def latent(read: Tensor, noise: Tensor) -> Tensor:
    """mean |E(G(x, z)) − z| (BicycleGAN: Zhu et al., 2017, equation 7)."""
    return F.l1_loss(read, noise)


def output_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """mean |S(x) − T(x)| over chroma (N, 2, h, w): the teacher's painting stands in for the truth (Li et al., 2020,
    section 3.1, where it makes unpaired training paired)."""
    return F.l1_loss(student, teacher)


def feature_matching(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over points k of ‖W_k s_k − t_k‖² / ‖t_k‖², features (N, C_k, h_k, w_k), the student's brought to the
    teacher's channels by W_k (Li et al., 2020, section 3.1). Divided so that points of any scale weigh the same."""
    shares = [
        (ours - theirs).square().mean() / (theirs.square().mean() + 1e-8)
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(shares).mean()


def hints(read: Tensor, teacher: Tensor) -> Tensor:
    """mean (1 − cos(r, t)) over places of features (N, C, h, w): hints (FitNets: Romero et al., 2015, equation 3), by
    angle, since a classifier's features vary in length by what fills the picture."""
    return 1 - F.cosine_similarity(read, teacher, dim=1).mean()


def class_distribution(read: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """KL(softmax(t/T) ‖ softmax(r/T)) of logits (N, classes), mean over N: ChromaGAN's class distribution loss (Vitoria
    et al., 2020, equation 3), softened by T so that classes that were nearly seen tell too (Hinton et al., 2015)."""
    return F.kl_div((read / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="batchmean")


BINS = 16
REACH = 0.4  # chroma of photographs hardly passes this; what does falls into the outermost bins


def colour_histogram(chroma: Tensor) -> Tensor:
    """(N, 2, h, w) in -0.5..0.5 -> (BINS, BINS), sum 1: shares of (Cb, Cr), each pixel split bilinearly over bins.

    The split makes it differentiable.
    """
    place = ((chroma / REACH + 1) / 2 * (BINS - 1)).clamp(0, BINS - 1)  # (N, 2, h, w) in bins
    bins = torch.arange(BINS, device=chroma.device, dtype=chroma.dtype)
    near = (1 - (place.permute(1, 0, 2, 3).reshape(2, -1, 1) - bins).abs()).clamp_min(0)  # (2, pixels, BINS)
    return near[0].T @ near[1] / near.shape[1]


def overuse(histogram: Tensor, used: Tensor, real: Tensor) -> Tensor:
    """Σ_b h_b · log((used_b + ε) / (real_b + ε)): the colours of this batch, each priced by how much oftener the
    generator has used it, over a running mean, than real pictures do. Against mode collapse to one colour pattern
    (after the idea in Mahajan, 2022: to train away from overused colours). No gradient flows into the running means.
    """
    small = 1e-4
    return (histogram * ((used + small) / (real + small)).log()).sum()


def r1(scores: Tensor, real: Tensor) -> Tensor:
    """½·E ‖∇D(x)‖² at real pictures, which must require gradients (Mescheder et al., 2018, equation 9)."""
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()

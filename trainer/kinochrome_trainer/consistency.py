"""CDC, the colour distribution consistency of a film: how much its colours change over frames 1, 2 and 4 apart.

As compute_hist.py of TCVC (Liu et al., 2021): of each channel of R'G'B' a histogram of 256 bins; of two frames the
Jensen-Shannon divergence of their histograms, natural logarithm, mean over channels. Histograms of R'G'B' contain luma:
gray frames have a floor of their own, and pale colours come near it. So read it beside gray's and colourfulness.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SPANS = (1, 2, 4)
"""Frames apart."""


def histograms(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """R'G'B' (h, w, 3) -> (3, 256), shares of the pixels."""
    return np.stack([np.bincount(frame[..., c].ravel(), minlength=256) / frame[..., c].size for c in range(3)])


def cdc(histograms: npt.NDArray[np.float64], cuts: Sequence[bool]) -> float:
    """Mean over SPANS of the mean divergence between the histograms (N, 3, 256) of frames that far apart in a shot.

    cuts: of each frame, whether a shot starts with it. One shot at least must be longer than the longest span.
    """
    shots = np.cumsum(cuts)
    spans = []
    for span in SPANS:
        together = shots[span:] == shots[:-span]
        spans.append(_divergence(histograms[:-span][together], histograms[span:][together]).mean())
    return float(np.mean(spans))


def longest_shot(cuts: Sequence[bool]) -> int:
    """Frames of the longest shot."""
    return int(np.bincount(np.cumsum(cuts)).max(initial=0))


def _divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Jensen-Shannon, natural logarithm, over the last axis."""
    middle = (p + q) / 2

    def against(part: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        ratio = np.divide(part, middle, out=np.ones_like(part), where=part > 0)
        return np.asarray((part * np.log(ratio)).sum(-1))

    return 0.5 * against(p) + 0.5 * against(q)

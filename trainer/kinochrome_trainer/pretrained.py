"""Weights of other people's networks, which features and classifiers are: torchvision's by name, or a file."""

from pathlib import Path

import torch
from torch import Tensor

from .errors import BadWeights

STANDARD = "imagenet"
"""The name by which torchvision's weights are asked for."""


def weights(name: str, *, url: str, option: str, what: str) -> tuple[dict[str, Tensor], str]:
    """A state dict and where it came from.

    Args:
        name: STANDARD, to have `url` fetched once into torch's hub folder and checked; or a file.
        url: of torchvision's; its name ends in the start of the file's SHA-256.
        option: how a person names a file instead, for errors.
        what: what such a file holds, for errors.

    Raises BadWeights when they cannot be had.
    """
    if name == STANDARD:
        try:
            found = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise BadWeights(
                f"{what} cannot be fetched from {url} ({error}): "
                f"download it elsewhere, and name the file with {option}FILE"
            ) from None
        return found, url
    file = Path(name)
    if not file.is_file():
        raise BadWeights(f"{option}{name} is no file: name one that holds {what}, or {STANDARD} to have it fetched")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler stumbled on
        raise BadWeights(f"{file} cannot be read as weights: {error}".partition("\n")[0]) from None
    if not isinstance(found, dict):
        raise BadWeights(f"{file} holds no state dict")
    return found, str(file)

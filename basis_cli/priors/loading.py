"""From a prior's name to a prior on a device."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import weights
from ..api import Prior
from ..compute import choose_device
from ..errors import BasisError
from ..plugins import prior_spec, resolve


def load_prior(name: str, *, weights_path: Path | None = None, device: torch.device | str = "auto") -> Prior:
    """The prior called ``name`` (or ``plugin/name``) on ``device``, with its weights verified.

    Raises:
        UnknownPriorError: no plugin offers it.
        WeightsError: its weights are missing, corrupted or do not fit.
        BasisError: its plugin failed, or returned something that is no prior.
    """
    spec = prior_spec(name)
    where = choose_device(device) if isinstance(device, str) else device
    path = weights.find(spec.weights, weights_path) if spec.weights else weights_path
    try:
        prior = resolve(spec.load)(spec, path, where)
    except BasisError:
        raise
    except Exception as error:
        raise BasisError(
            f"prior {name!r} failed to load: {type(error).__name__}: {error}", "report it to its plugin's author"
        ) from error
    shape = tuple(getattr(prior, "shape", ()))
    if not callable(getattr(prior, "at", None)) or len(shape) != 3 or shape != tuple(spec.shape or shape):
        raise BasisError(
            f"prior {name!r} is not usable: its plugin returned {type(prior).__name__}",
            f"it must have .at(sigma) and .shape == {tuple(spec.shape or ('channels', 'height', 'width'))}",
        )
    return prior

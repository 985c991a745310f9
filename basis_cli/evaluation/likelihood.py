"""The likelihood of pictures under a prior (Table 1) and the size of its score (Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..api import Level, Likelihood, Prior
from ..compute import Compute
from ..data.datasets import Dataset
from ..errors import InputError, UsageError
from ..operators import Mixture
from ..posterior import Guided, Sampling, drawn
from ..posterior.ranking import bits_per_dim
from ..priors import contract
from ..samplers import Watch, unwatched
from ..samplers.noise import picture_seeds
from .protocols import mixtures, of_shape

PAPER_BITS_PER_DIM = {  # Table 1, BASIS with Glow
    "mnist": {"test, no noise": 0.5, "test": 3.6, "separations": 3.6},
    "cifar10": {"test, no noise": 3.4, "test": 4.5, "separations": 4.7},
    "lsun:church_outdoor": {"test, no noise": 2.7, "test": 4.4, "separations": 4.4},
    "lsun:bedroom": {"test, no noise": 2.4, "test": 4.2, "separations": 4.4},
}


def _seeded(index: int, like: Tensor, uniform: bool = False) -> Tensor:
    """Noise that depends on ``index`` alone: normal, or uniform in [-1/2, 1/2]."""
    generator = torch.Generator().manual_seed(index)
    noise = (
        torch.rand(like.shape, generator=generator) - 0.5 if uniform else torch.randn(like.shape, generator=generator)
    )
    return noise.to(like.device)


def evaluate_likelihood(
    data: Dataset | Sequence[Dataset],
    priors: Sequence[Prior],
    *,
    pictures: int = 1000,
    pairs: int = 100,
    sigma: float | None = None,
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Bits/dim of test pictures, and of separations of two of them with the two ``priors``: Table 1.

    Two data sets are one for each component and its prior. ``sigma`` is the lowest noise level sigma_L, by default that
    of the sampler. Test pictures get noise of that level; the separations, drawn at it, have it.

    Returns:
        ``bits_per_dim``, for each data set a mean with its standard error of ``test, no noise`` (dequantized pictures
        under the prior without noise; ``None`` if it has no such level), ``test`` and ``separations`` (``None`` for no
        pairs) at ``sigma``; then how they were made.

    Raises:
        UsageError: a prior has no likelihood; neither one data set nor two, or one for two different priors; pictures
            of another shape than the priors'.
    """
    sampling = (sampling or Sampling()).over({"sampler": "langevin"})
    compute = compute or Compute()
    data = [data] if isinstance(data, Dataset) else data
    if len(data) == 1 and priors[0] is not priors[1]:
        raise UsageError("two priors need a data set each", "--data A --data B")
    y, truth, about = mixtures(data, 2, max(pairs, 1), "class-agnostic", sampling.seed)
    made = {id(prior): of_shape(prior, about["data"], truth) for prior in priors}
    priors = [made[id(prior)] for prior in priors]
    device = compute.place
    sigma = sigma or sampling.sigmas(priors)[-1]
    names = [each.name for each in data]
    if len(set(names)) < len(names):
        names = [f"{name} ({i + 1})" for i, name in enumerate(names)]
    own = dict(zip(names, priors, strict=False))  # one data set for both: under the first prior
    tests = {name: each[:pictures].to(device) for name, each in zip(names, data, strict=True)}
    found = {name: _bits_of_test(x, own[name], sigma, sampling.seed) for name, x in tests.items()}
    if pairs:
        seeds = picture_seeds(sampling.seed, y[:pairs])
        result = drawn(Guided(priors, Mixture([0.5, 0.5]), sampling), y, seeds, compute=compute, watch=watch)
        x = torch.stack([one.x[:, 0] for one in result.ranked], dim=1)
        separations = x.to(device).unbind() if len(data) == 2 else [x.to(device).flatten(0, 1)]
        for name, separated in zip(names, separations, strict=True):
            found[name]["separations"] = _bits_per_dim(own[name].at(sigma), separated)
    return about | {
        "sigma": sigma,
        "pictures": {name: len(x) for name, x in tests.items()},
        "pairs": pairs,
        "bits_per_dim": found,
        "settings": sampling.described(priors) | compute.described(),
    }


def _bits_of_test(x: Tensor, prior: Prior, sigma: float, seed: int) -> dict[str, dict[str, float] | None]:
    """The rows of Table 1 that need no separations, for pictures ``x`` ``(n, c, h, w)``."""
    clean = _level_without_noise(prior)
    return {
        "test, no noise": _bits_per_dim(clean, x + _seeded(seed, x, uniform=True) / 255) if clean else None,
        "test": _bits_per_dim(prior.at(sigma), x + sigma * _seeded(seed, x)),
        "separations": None,
    }


def _level_without_noise(prior: Prior) -> Level | None:
    try:
        return prior.at(0.0)
    except InputError:
        return None


@torch.no_grad()
def _bits_per_dim(level: Level, x: Tensor) -> dict[str, float]:
    """Mean and standard error over pictures ``x`` ``(n, c, h, w)``."""
    if not isinstance(level, Likelihood):
        raise UsageError("this prior gives scores but no likelihood", "choose a Glow or a toy prior")
    parts = [bits_per_dim(contract.log_prob(level, part), x[0].numel()).cpu().double() for part in x.split(100)]
    bits = torch.cat(parts)
    return {"mean": float(bits.mean()), "standard_error": float(bits.std() / len(bits) ** 0.5)}


@torch.no_grad()
def evaluate_gradients(
    data: Dataset,
    prior: Prior,
    *,
    sigmas: Sequence[float],
    pictures: int = 200,
    seed: int = 0,
    compute: Compute | None = None,
) -> list[dict[str, float]]:
    """``sigma E ||grad log p_sigma(x)||`` over noisy test pictures at each of ``sigmas``: Figure 2.

    Returns:
        For each level ``sigma``, ``scaled_norm`` (the mean) and its ``standard_error``.
    """
    prior = of_shape(prior, data.name, data[:1])
    x = data[:pictures].to((compute or Compute()).place)
    noise = _seeded(seed, x)
    rows = []
    for sigma in sigmas:
        level = contract.level(prior, sigma)
        scores = torch.cat([contract.score(level, part) for part in (x + sigma * noise).split(100)])
        norms = sigma * scores.cpu().double().flatten(1).norm(dim=1)
        rows.append(
            {
                "sigma": sigma,
                "scaled_norm": float(norms.mean()),
                "standard_error": float(norms.std() / len(norms) ** 0.5),
            }
        )
    return rows

"""What samplers are made of: joint scores and denoisers, the way down the noise levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..api import Prior
from ..errors import NotFiniteError
from .noise import PerImageNoise


@dataclass(frozen=True)
class Progress:
    """Where a sampler is after a step."""

    step: int
    """Of ``total``, from 0."""
    total: int
    level: int
    """Of ``levels``, from 0."""
    levels: int
    sigma: float
    x: Tensor
    """``(k, n, c, h, w)``: the noisy pictures of Langevin dynamics, else the estimate of the clean ones. The next step
    may change it in place: copy what is kept."""
    batch: int = 0
    """Of ``batches``, from 0: what the runner adds."""
    batches: int = 1
    chosen: tuple[tuple[int, int], ...] = ()
    """``(input, sample)`` of each picture at work."""
    residual: Callable[[], float] = lambda: 0.0
    """Root mean square of ``A x - y`` in 8-bit levels; on a GPU it waits for the device."""


Watch = Callable[[Progress], None]
"""Called after each step of a sampler."""


def unwatched(progress: Progress) -> None:
    """Does nothing."""


Descent = Callable[[Sequence[float], Tensor, PerImageNoise], Iterable[tuple[int, float]]]


def descend(sigmas: Sequence[float], x: Tensor, noise: PerImageNoise) -> Iterable[tuple[int, float]]:
    """``(level, sigma)`` for each noise level: what a sampler's loop goes through.

    ``x`` and ``noise``, both changed in place, are all that a sampler carries from one level to the next. So another
    function in this one's place can keep them, and go on from what was kept (:mod:`basis_cli.posterior.resume`).
    """
    return enumerate(sigmas)


def begun_at(
    start: Tensor, descent: Descent, sigmas: Sequence[float], x: Tensor, noise: PerImageNoise
) -> Iterable[tuple[int, float]]:
    """As ``descent``, from ``start`` ``(k, n, c, h, w)`` with noise of the first level."""
    x.copy_(start + sigmas[0] * noise.normal(tuple(x.shape)))
    return descent(sigmas, x, noise)


def joint_score(priors: Sequence[Prior], sigma: float | Sequence[float]) -> Callable[[Tensor], Tensor]:
    """The score of ``p(x_1) ... p(x_k)`` (equation 13) as a function of ``x`` ``(k, n, c, h, w)``.

    ``sigma`` is the noise level of all components, or one for each. Those that share a prior and a level go through it
    in one batch.
    """
    sigmas = [sigma] * len(priors) if isinstance(sigma, (int, float)) else sigma
    groups: dict[tuple[int, float], list[int]] = {}
    for i, (prior, level) in enumerate(zip(priors, sigmas, strict=True)):
        groups.setdefault((id(prior), level), []).append(i)
    levels = [(priors[members[0]].at(level), members) for (_, level), members in groups.items()]

    def score(x: Tensor) -> Tensor:
        scores: dict[int, Tensor] = {}
        for level, members in levels:  # no index tensors: on CUDA they would make the host wait
            together = level.score(torch.cat([x[i] for i in members]))
            scores |= zip(members, together.chunk(len(members)), strict=True)
        return torch.stack([scores[i] for i in range(len(x))])

    return score


def weighted(weights: Sequence[float], x: Tensor) -> Tensor:
    """Component ``i`` of ``x`` ``(k, ...)`` times ``weights[i]``."""
    if len(set(weights)) == 1:
        return weights[0] * x
    return torch.stack([weight * component for weight, component in zip(weights, x, strict=True)])


def joint_denoiser(priors: Sequence[Prior], sigma: float | Sequence[float]) -> Callable[[Tensor], Tensor]:
    """``D(x) = x + sigma^2 score_sigma(x) = E[x0 | x]`` (Tweedie) for all components ``(k, n, c, h, w)``."""
    score = joint_score(priors, sigma)
    variances = [sigma**2] * len(priors) if isinstance(sigma, (int, float)) else [s**2 for s in sigma]
    return lambda x: x + weighted(variances, score(x))


def check_finite(x: Tensor, sigma: float) -> None:
    """Raise :class:`NotFiniteError` if a sample of ``x`` ``(k, n, ...)`` is not finite: NaN would be saved as black."""
    bad = ~torch.isfinite(x).flatten(2).all(2).all(0)
    if bad.any():
        raise NotFiniteError(
            f"{int(bad.sum())} of {len(bad)} samples are not finite at noise level {sigma:.4g}",
            "try a smaller --step-size, or float32",
        )

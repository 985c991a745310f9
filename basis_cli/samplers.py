"""Samplers: plain functions that draw ``x ~ p(x | y)`` from priors and an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .api import Prior
from .errors import NotFiniteError
from .graphs import repeated
from .noise import PerImageNoise
from .operators import LinearOperator


def geometric(levels: int, high: float = 1.0, low: float = 0.01) -> tuple[float, ...]:
    """``levels`` noise levels from ``high`` down to ``low`` with a constant ratio (section 3.4)."""
    if levels == 1:
        return (low,)
    return tuple(high * (low / high) ** (i / (levels - 1)) for i in range(levels))


def linear(levels: int, high: float = 1.0, low: float = 0.05) -> tuple[float, ...]:
    """``levels`` noise levels from ``high`` down to ``low`` with a constant difference.

    It spends the evaluations where the components are told apart: with few of them it separates better than
    :func:`geometric`, and below 0.05 little is left to decide.
    """
    if levels == 1:
        return (high,)
    return tuple(high + (low - high) * i / (levels - 1) for i in range(levels))


PAPER_SIGMAS = geometric(10)
FAST_SIGMAS = linear(50)
LADDERS = {"project": linear}
"""The kind of ladder that a sampler takes by name; :func:`geometric` unless stated here."""


def no_callback(**state: Any) -> None:
    """Does nothing. A sampler calls its callback after each step: ``step``, ``total``, ``level``, ``sigma``, ``x``.

    ``x`` may be changed in place by the next step: copy what you keep.
    """


def joint_score(priors: Sequence[Prior], sigma: float) -> Callable[[Tensor], Tensor]:
    """The score of ``p(x_1) ... p(x_k)`` (equation 13) at ``sigma``, as a function of ``x`` ``(k, n, c, h, w)``.

    Components that share a prior go through it in one batch.
    """
    groups: dict[int, list[int]] = {}
    for i, prior in enumerate(priors):
        groups.setdefault(id(prior), []).append(i)
    levels = [(priors[members[0]].at(sigma), members) for members in groups.values()]

    def score(x: Tensor) -> Tensor:
        scores: dict[int, Tensor] = {}
        for level, members in levels:  # no index tensors: on CUDA they would make the host wait
            together = level.score(torch.cat([x[i] for i in members]))
            scores |= zip(members, together.chunk(len(members)), strict=True)
        return torch.stack([scores[i] for i in range(len(x))])

    return score


def joint_denoiser(priors: Sequence[Prior], sigma: float) -> Callable[[Tensor], Tensor]:
    """``D(x) = x + sigma^2 score_sigma(x) = E[x0 | x]`` (Tweedie) for all components ``(k, n, c, h, w)``."""
    score = joint_score(priors, sigma)
    return lambda x: x + sigma**2 * score(x)


def check_finite(x: Tensor, sigma: float) -> None:
    """Raise :class:`NotFiniteError` if a sample of ``x`` ``(k, n, ...)`` is not finite: NaN would be saved as black."""
    bad = ~torch.isfinite(x).flatten(2).all(2).all(0)
    if bad.any():
        raise NotFiniteError(
            f"{int(bad.sum())} of {len(bad)} samples are not finite at noise level {sigma:.4g}",
            "try a smaller --step-size, or float32",
        )


def langevin(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = PAPER_SIGMAS,
    steps: int = 100,
    step_size: float = 2e-5,
    temperature: float = 1.0,
    callback: Callable[..., None] = no_callback,
) -> Tensor:
    """Draw the components from ``p(x | y)`` by noise-annealed Langevin dynamics (BASIS, Algorithm 1).

    At each level, ``steps`` times::

        x <- x + eta (score_sigma(x) + A^T (y - A x) / gamma^2) + sqrt(2 eta) eps,   eta = step_size sigma^2 / sigma_L^2

    ``gamma = sigma`` for a sum of pictures (section 3.4). For another scale of the coefficients the same relative
    uncertainty is kept, ``gamma = sigma * operator.scale``, so mixing by sum or by mean gives the same samples.

    Args:
        priors: one for each component, ``operator.k`` in all; the same object may appear several times.
        y: what was observed, ``(n, ...)``.
        seeds: one integer a picture; a picture depends on its own seed only.
        sigmas: noise levels, high to low.
        temperature: scales the variance of the noise; 0 is gradient ascent (:data:`ascent`).
        callback: called after each step, see :func:`no_callback`.

    Returns:
        ``(k, n, c, h, w)`` samples at the last noise level, not clipped.

    Raises:
        NotFiniteError: a sample is NaN or infinite at the end of a level.
    """
    noise = PerImageNoise(seeds, y.device)
    x = noise.uniform((operator.k, len(y), *priors[0].shape))

    def update(score: Callable[[Tensor], Tensor], eta: float, gamma: float) -> None:
        drift = score(x) + operator.adjoint(y - operator(x)) / gamma**2
        x.add_(drift.mul_(eta)).add_(noise.normal(x.shape).mul_((2 * eta * temperature) ** 0.5))

    for level, sigma in enumerate(sigmas):
        eta = step_size * (sigma / sigmas[-1]) ** 2
        step = partial(update, joint_score(priors, sigma), eta, sigma * operator.scale)
        for done in repeated(step, steps, x.device):
            callback(step=level * steps + done, total=len(sigmas) * steps, level=level, sigma=sigma, x=x)
        check_finite(x, sigma)
    return x


ascent = partial(langevin, temperature=0.0)
"""Gradient ascent on the log-posterior: what section 3.6 and Figure 3 compare with. One level (``--levels 1``) is the
version without annealing."""


def project(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = FAST_SIGMAS,
    callback: Callable[..., None] = no_callback,
) -> Tensor:
    """Denoise, project onto ``A x = y``, renoise in full; one network evaluation a level::

        x0 <- D(x) + A^+ (y - A D(x)),   x <- x0 + sigma_next z

    All noise is drawn afresh at every level: it is what lets a chain leave a wrong assignment of detail to components.
    With less of it (deterministic, DDIM-like updates) separation with one prior for all stays near the mean picture.

    The projection is that of DDNM (Wang et al. 2023), the renoising DDIM's with eta = 1 taken to the end. For
    measurements without noise. Good pictures from few evaluations, but it is not exact, and too sure of itself: the
    spread of its samples is below the posterior's. Arguments, result and errors as :func:`langevin`.
    """
    noise = PerImageNoise(seeds, y.device)
    shape = (operator.k, len(y), *priors[0].shape)
    x0 = operator.pinv(y)
    for level, sigma in enumerate(sigmas):
        denoised = joint_denoiser(priors, sigma)(x0 + sigma * noise.normal(shape))
        x0 = denoised + operator.pinv(y - operator(denoised))
        callback(step=level, total=len(sigmas), level=level, sigma=sigma, x=x0)
    check_finite(x0, sigmas[-1])
    return x0

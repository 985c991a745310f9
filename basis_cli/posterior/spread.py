"""How sure a separation is: samples of the posterior about the answers that were found, whatever found them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..api import Likelihood, Prior
from ..operators import Composed, Operator
from ..samplers import begun_at, descend, geometric, image_seed, mmps
from ..samplers.noise import PerImageNoise
from .ranking import Ranked

if TYPE_CHECKING:
    from .guided import Guided

DRAWS = 8
"""Samples about the answers of each input."""
HIGH, LOW, LEVELS = 0.25, 0.015, 4
"""Noise levels: from what leaves every stroke with its component, but moves it."""
DOUBTED = 5.0
"""Nats: with it the likelihoods of the answers to 17 tuning mixtures of three and four digits tell best which is right,
of 1 to 100."""
STEPS = 2
"""Of Lanczos' method and of conjugate gradients, a level."""
GRAIN = 1e-3
"""Of a level of 8 bits: what arithmetic leaves of whole numbers."""


def needed(posterior: Guided) -> bool:
    """Whether the samples of ``posterior`` are too sure of how its several components divide what was observed."""
    return posterior.operator.k > 1 and posterior.sampling.timid


def about(
    priors: Sequence[Prior], operator: Operator, x: Tensor, y: Tensor, seeds: Sequence[int], noise_std: float = 0.0
) -> Tensor:
    """A sample ``(k, n, c, h, w)`` of ``p(x | y)`` from the mode of each answer ``x`` ``(k, n, c, h, w)``.

    ``x`` with noise of :data:`HIGH` is nearly what the posterior's own samples with that noise are, and
    :func:`basis_cli.samplers.mmps` takes it out as the posterior does, a sample of the Gaussian at each level.

    Raises:
        UsageError: a prior whose score cannot be differentiated.
    """
    return mmps(
        priors,
        operator,
        y,
        seeds=seeds,
        sigmas=ladder(priors),
        noise_std=noise_std,
        cg_steps=STEPS,
        root_steps=STEPS,
        descent=partial(begun_at, x, descend),
    )


def ladder(priors: Sequence[Prior]) -> tuple[float, ...]:
    """The noise levels of :func:`about`, high to low: those of ``priors`` that have some, up to :data:`HIGH`."""
    own = next((prior.sigmas for prior in priors if prior.sigmas), None)
    return tuple(sigma for sigma in own if sigma <= HIGH) if own else geometric(LEVELS, HIGH, LOW)


def evaluations(priors: Sequence[Prior]) -> int:
    """Of the network, for each component of an input, of all its draws; a derivative through it counts as two more."""
    return DRAWS * len(ladder(priors)) * (1 + 2 * 2 * STEPS)


def unrounded(operator: Operator, y: Tensor, seeds: Sequence[int]) -> Tensor:
    """``y`` ``(n, ...)`` as it may have been before a file rounded it to 8 bits, by a seed for each.

    Evenly drawn from what rounds to it, the same in all channels of a gray picture. ``y`` itself where its values are
    no 8-bit ones, or where the ``operator`` knows what is kept of each value.
    """
    levels = 255 * y
    kept = ((levels - levels.round()).abs() < GRAIN).flatten(1).all(1)
    if isinstance(operator, Composed) or not kept.any():
        return y
    noise = PerImageNoise([image_seed(seed, 2) for seed in seeds], y.device).uniform((1, *y.shape))[0] - 0.5
    gray = (y == y[:, :1]).flatten(1).all(1)
    noise = torch.where(_each(gray, y), noise[:, :1], noise)
    return torch.where(_each(kept, y), y + noise / 255, y)


def _each(values: Tensor, y: Tensor) -> Tensor:
    """One value for each of ``y`` ``(n, ...)``, broadcastable to it."""
    return values.view(-1, *[1] * (y.ndim - 1))


def modes(ranked: Ranked, priors: Sequence[Prior]) -> list[float]:
    """How probable each distinct answer is beside the others, by the log-likelihood of its likeliest sample.

    That of score priors is an estimate (:func:`.ranking.log_likelihood`): of :data:`DOUBTED` nats only one counts.
    """
    best = [-math.inf] * (max(ranked.answer) + 1)
    for answer, nats in zip(ranked.answer, ranked.log_likelihood.tolist(), strict=True):
        best[answer] = max(best[answer], nats)
    known = all(isinstance(prior.at(prior.sigmas[-1] if prior.sigmas else LOW), Likelihood) for prior in priors)
    return (torch.tensor(best, dtype=torch.float64) / (1 if known else DOUBTED)).softmax(0).tolist()


def starts(ranked: Ranked, weights: Sequence[float]) -> Tensor:
    """The answers ``(k, r, c, h, w)`` to draw about, :data:`DRAWS` in all, each as often as its weight says."""
    share = torch.tensor(weights).cumsum(0)
    chosen = torch.searchsorted(share, (torch.arange(DRAWS) + 0.5) / DRAWS).clamp_max(len(share) - 1)
    return ranked.x[:, [ranked.answer.index(answer) for answer in chosen.tolist()]]


def deviation(drawn: Tensor, shown: Tensor) -> Tensor:
    """Root mean square of samples ``(k, n, draws, c, h, w)`` about the answer ``shown`` ``(k, n, c, h, w)``."""
    return (drawn - shown[:, :, None]).square().mean(2).sqrt()

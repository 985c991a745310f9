"""Choosing among posterior samples: which is the most probable, which are the same answer, how sure the answer is."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..api import Likelihood, Prior
from ..priors.wrapper import halvings
from ..samplers import PAPER_SIGMAS, geometric, joint_denoiser
from ..samplers.noise import PerImageNoise
from .ordering import assignment

SELECT = ("all", "best", "mode", "mean")
SIGMAS = geometric(8, 0.8, 0.03)
SAME_RMS = 0.05
"""Two samples are the same answer if they differ by less than this, root mean square over all components."""


def log_likelihood(priors: Sequence[Prior], x: Tensor, sigmas: Sequence[float] = SIGMAS, seed: int = 0) -> Tensor:
    """``sum_i log p_i(x_i)`` in nats, up to one constant for all: ``x`` ``(k, n, c, h, w)`` to ``(n,)``.

    A prior whose levels have ``log_prob`` is asked for it at its lowest level (the paper's choice among Glow samples).
    For a score prior it is the denoising error over the noise levels, which equals the log-likelihood up to a constant
    where the denoiser is optimal and the levels cover all noise (Kong et al. 2023, equation 8)::

        log p(x) = const - integral of E ||D(x + s z, s) - x||^2 / s^2 d(log s)

    as a sum over ``sigmas`` (evenly spaced in ``log s``), one evaluation each, with the same ``z`` for all pictures, so
    that the noise of the estimate nearly cancels in differences. For comparing samples of one mixture only. Levels
    beyond those that a prior was trained at are left out. A pyramid
    (:class:`basis_cli.priors.tiles.PyramidPrior`) is asked from as much higher a level on as it has scales.
    """
    noise = PerImageNoise([seed], x.device)
    total = torch.zeros(x.shape[1], device=x.device)
    scored = []
    for i, prior in enumerate(priors):
        lowest = prior.at(prior.sigmas[-1] if prior.sigmas else sigmas[-1])
        if isinstance(lowest, Likelihood):
            total += lowest.log_prob(x[i])
        else:
            scored.append(i)
    pictures = x[scored]
    step = math.log(sigmas[0] / sigmas[-1]) / (len(sigmas) - 1)
    if octaves := halvings(priors):
        sigmas = geometric(len(sigmas) + round(octaves * math.log(2) / step), sigmas[0] * 2**octaves, sigmas[-1])
        step = math.log(sigmas[0] / sigmas[-1]) / (len(sigmas) - 1)
    known = [own for i in scored if (own := priors[i].sigmas)]
    sigmas = [sigma for sigma in sigmas if all(own[-1] <= sigma <= own[0] for own in known)]
    for sigma in sigmas if scored else ():
        noisy = pictures + sigma * noise.normal((1, 1, *x.shape[2:]))
        error = joint_denoiser([priors[i] for i in scored], sigma)(noisy) - pictures
        total -= step / sigma**2 * error.square().flatten(2).sum((0, 2))
    return total


@torch.no_grad()
def component_log_prob(priors: Sequence[Prior], x: Tensor) -> Tensor | None:
    """``log p_i(x_i + s z)`` in nats of every component, ``x`` ``(k, n, c, h, w)`` to ``(k, n)``.

    ``s`` is the prior's lowest noise level, or 0.01, the paper's sigma_L, and ``z`` the same for all pictures: what
    Table 1 says of test pictures. NaN where a prior has no likelihood; ``None`` if no prior has one.
    """
    z = PerImageNoise([0], x.device).normal((1, 1, *x.shape[2:]))[0]
    found, known = x.new_full(x.shape[:2], math.nan), False
    for i, prior in enumerate(priors):
        level = prior.at(sigma := prior.sigmas[-1] if prior.sigmas else PAPER_SIGMAS[-1])
        if isinstance(level, Likelihood):
            found[i], known = level.log_prob(x[i] + sigma * z), True
    return found if known else None


def bits_per_dim(log_prob: Tensor, dimensions: int) -> Tensor:
    """Bits for each of a picture's ``dimensions`` values, 8 bits deep, from its log-density in nats over [0, 1]."""
    return math.log2(255) - log_prob / (dimensions * math.log(2))


@dataclass(frozen=True)
class Ranked:
    """The samples of one mixture, most probable first, and what they agree on."""

    x: Tensor
    """``(k, samples, c, h, w)``; components in the order that brings each sample nearest to its answer's first."""
    log_likelihood: Tensor
    """``(samples,)`` in nats, falling."""
    answer: list[int]
    """For each sample the number of its answer, 0 for that of the most probable one: :data:`SAME_RMS` apart."""
    drawn: list[int]
    """Which sample each is, in the order in which they were drawn."""

    def select(self, how: str) -> Tensor:
        """The samples to show, ``(k, m, c, h, w)``: ``all``; the ``best`` one; the mean of those that give the best
        one's answer (``mode``), which has about half a sample's squared error; or the ``mean`` of all."""
        if how == "all":
            return self.x
        if how == "best":
            return self.x[:, :1]
        chosen = [i for i, answer in enumerate(self.answer) if how == "mean" or answer == 0]
        return self.x[:, chosen].mean(1, keepdim=True)

    @property
    def std(self) -> Tensor:
        """Standard deviation of every pixel over the samples, ``(k, c, h, w)``; needs two samples."""
        return self.x.std(1)


def rank(x: Tensor, log_likelihood: Tensor, kinds: Sequence[Hashable]) -> Ranked:
    """Sort the samples ``(k, samples, c, h, w)`` of one mixture and gather those that are the same answer.

    Components of the same kind may change places. Each sample in turn joins the first answer that it is near enough to,
    or begins a new one.
    """
    order = log_likelihood.argsort(descending=True, stable=True)
    firsts: list[Tensor] = []  # the sample that began each answer
    aligned, answers = [], []
    for sample in x[:, order].unbind(1):
        answer, sample = _placed(sample, firsts, kinds)
        if answer == len(firsts):
            firsts.append(sample)
        aligned.append(sample)
        answers.append(answer)
    return Ranked(torch.stack(aligned, dim=1), log_likelihood[order], answers, order.tolist())


def _placed(sample: Tensor, firsts: list[Tensor], kinds: Sequence[Hashable]) -> tuple[int, Tensor]:
    """The number of a sample's answer, and the sample with its components in that answer's order."""
    for answer, first in enumerate(firsts):
        candidate = _aligned(sample, first, kinds)
        if (candidate - first).square().mean().sqrt() < SAME_RMS:
            return answer, candidate
    return len(firsts), _aligned(sample, firsts[0], kinds) if firsts else sample


def _aligned(x: Tensor, reference: Tensor, kinds: Sequence[Hashable]) -> Tensor:
    """The components ``(k, c, h, w)`` in the order that makes them nearest to ``reference``."""
    closeness = -(reference[:, None] - x[None]).square().flatten(2).sum(2)
    return x[assignment(closeness, kinds)]

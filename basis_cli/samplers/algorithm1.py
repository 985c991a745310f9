"""Algorithm 1 of the paper: noise-annealed Langevin dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from ..api import Prior, SamplerSpec
from ..operators import Operator, linearized, misfit
from .base import Descent, Progress, Watch, check_finite, descend, joint_score, unwatched, weighted
from .graphs import repeated
from .noise import PerImageNoise
from .renoising import relative_levels
from .schedules import PAPER_SIGMAS


def langevin(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = PAPER_SIGMAS,
    steps: int = 100,
    step_size: float = 2e-5,
    noise_std: float = 0.0,
    temperature: float = 1.0,
    ladder: float = 1.0,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Draw the components from ``p(x | y)`` by noise-annealed Langevin dynamics (BASIS, Algorithm 1).

    At each level, ``steps`` times::

        x <- x + eta (score_sigma(x) + A^T (y - A x) / gamma^2) + sqrt(2 eta temperature) eps
        eta = step_size sigma^2 / sigma_L^2

    ``gamma = sigma`` for a sum of pictures (section 3.4). For another scale of the coefficients the same relative
    uncertainty is kept, ``gamma = sigma * operator.scale``, so mixing by sum or by mean gives the same samples. The
    operator may be non-linear; ``A^T`` is then its derivative's.

    Components of a mixture have levels of their own, ``sigma_i = sigma (mean(alpha) / alpha_i)^ladder`` in place of
    ``sigma``, also in ``eta``, and ``gamma^2`` is the mean of ``(alpha_i sigma_i)^2``: with ``ladder`` 0, the paper's,
    the strong component is settled long before the weak one. It is 0 for priors that have levels of their own.

    At temperature 1 exact for the smoothed posterior at the last level as the steps grow in number and shrink.

    Args:
        priors: one for each component, ``operator.k`` in all; the same object may appear several times.
        y: what was observed, ``(n, ...)``.
        seeds: one integer a picture; a picture depends on its own seed only.
        sigmas: noise levels, high to low.
        noise_std: standard deviation of white noise in ``y``; its variance is added to ``gamma^2``.
        temperature: scales the variance of the noise; 0 is gradient ascent (:data:`ascent`).
        watch: called after each step.
        descent: goes through the levels, see :func:`descend`.

    Returns:
        ``(k, n, c, h, w)`` samples at the last noise level, not clipped.

    Raises:
        NotFiniteError: a sample is NaN or infinite at the end of a level.
    """
    any_level = all(prior.sigmas is None for prior in priors)
    noise, own = PerImageNoise(seeds, y.device), relative_levels(operator, ladder if any_level else 0)
    x = noise.uniform((operator.k, len(y), *priors[0].shape))
    scale = operator.scale * _scale(operator, own)

    def update(score: Callable[[Tensor], Tensor], etas: Sequence[float], variance: float) -> None:
        drift = score(x) + linearized(operator, x).adjoint(misfit(operator, x, y)) / variance
        fresh = weighted([(2 * eta * temperature) ** 0.5 for eta in etas], noise.normal(x.shape))
        x.add_(weighted(etas, drift)).add_(fresh)

    for level, sigma in descent(sigmas, x, noise):
        etas = [step_size * (sigma * each / sigmas[-1]) ** 2 for each in own]
        variance = (sigma * scale) ** 2 + noise_std**2
        step = partial(update, joint_score(priors, [sigma * each for each in own]), etas, variance)
        for done in repeated(step, steps, x.device):
            watch(Progress(level * steps + done, len(sigmas) * steps, level, len(sigmas), sigma, x))
        check_finite(x, sigma)
    return x


def _scale(operator: Operator, own: Sequence[float]) -> float:
    """How much noise a mixture has whose components have ``own`` relative levels, beside one where all are 1."""
    nominal = getattr(operator, "nominal", None)
    squares = [a * a for a in nominal.alpha] if nominal else [1.0] * operator.k
    return (sum(square * each**2 for square, each in zip(squares, own, strict=True)) / sum(squares)) ** 0.5


ascent = partial(langevin, temperature=0.0)
"""Gradient ascent on the log-posterior: what section 3.6 and Figure 3 compare with. One level (``--levels 1``) is the
version without annealing."""


SAMPLERS = (
    SamplerSpec(
        "langevin",
        "Algorithm 1 of the paper: exact as steps grow in number and shrink; a hundred evaluations a level",
        "basis_cli.samplers.algorithm1:langevin",
        steps=True,
        calibrated=True,
    ),
    SamplerSpec(
        "ascent",
        "the same without noise: gradient ascent on the log-posterior (Figure 3)",
        "basis_cli.samplers.algorithm1:ascent",
        steps=True,
    ),
)

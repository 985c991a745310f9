"""The frame of samplers that denoise, correct by what was observed, and renoise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..api import Prior
from ..errors import UsageError
from ..operators import Composed, Constraint, Gray, Jpeg, Operator
from .base import Descent, Progress, Watch, check_finite, joint_denoiser, weighted
from .noise import PerImageNoise

Estimate = Callable[[Tensor, list[float]], Tensor]
"""``E[x0 | x, y]``, approximately, from noisy components ``x`` ``(k, n, c, h, w)`` and the noise level of each."""


def renoised(
    estimate: Estimate,
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    seeds: Sequence[int],
    sigmas: Sequence[float],
    watch: Watch,
    descent: Descent,
    *,
    overrelaxation: float = 0.0,
    ladder: float = 0.0,
    noise_std: float = 0.0,
    ancestral: bool = False,
) -> Tensor:
    """``x0 <- estimate(x, s); x <- x0 + t e`` from each level s to the next, t: the frame of all samplers that denoise.

    ``e`` is noise made of the old one and of ``z``, drawn afresh::

        e = sqrt(1 - w^2) z - w (x - x0) / s

    With ``w = 0`` all noise is forgotten at every level: it is what lets a chain leave a wrong assignment of detail to
    components. Keeping some of it (``w < 0``, DDIM-like) separation with one prior for all stays near the mean
    picture. Negating it (``0 < w <= 1``, Adler's overrelaxation, 1981) lets the errors of successive estimates
    cancel, so that fewer levels do; but it also narrows the samples, which come out too much alike already, since
    fresh noise forgets how unsure ``x0`` was. ``ancestral`` renoises as the reverse of adding noise does (DDPM, Ho et
    al. 2020), which keeps that spread, at more levels for the same quality::

        x <- x0 + (t / s)^2 (x - x0) + t sqrt(1 - (t / s)^2) z

    Components of a mixture have levels of their own, ``s_i = s (mean(alpha) / alpha_i)^ladder``: see
    :func:`~.denoising.project`. ``noise_std`` is that of noise in ``y`` which is explained with the rest, and taken out
    at the end.
    """
    if not -1 <= overrelaxation <= 1:
        raise UsageError(f"overrelaxation is from -1 to 1, not {overrelaxation:g}")
    start = near_gray(operator, y, priors)
    noise, own = PerImageNoise(seeds, start.device), relative_levels(operator, ladder)
    x = start + weighted([sigmas[0] * each for each in own], noise.normal(start.shape))
    for level, sigma in descent(sigmas, x, noise):
        x0 = estimate(x, [sigma * each for each in own])
        watch(Progress(level, len(sigmas), level, len(sigmas), sigma, x0))
        if level + 1 < len(sigmas):
            after = sigmas[level + 1]
            if ancestral:
                keep = (after / sigma) ** 2 if level > 0 else 0.0  # the first estimate forgets the start
                fresh = after * (1 - keep) ** 0.5
            else:
                keep = -overrelaxation * after / sigma
                fresh = after * (1 - overrelaxation**2) ** 0.5
            x.copy_(x0 + weighted([fresh * each for each in own], noise.normal(x0.shape)) + keep * (x - x0))
    x0 = _polished(x0, priors, operator, noise_std)
    check_finite(x0, sigmas[-1])
    return x0


def _polished(x: Tensor, priors: Sequence[Prior], operator: Operator, noise_std: float) -> Tensor:
    """Pictures that explain ``y``, noise and all, without the noise: denoised once more.

    Of a single picture the noise is that of ``y``, but for :data:`ROUNDED` where JPEG rounded most of it away; what
    several have is :data:`SHARED` times as much, since how they share it is not known. To several, what JPEG rounded is
    noise as well.
    """
    left = noise_std * (SHARED if len(priors) > 1 else ROUNDED if isinstance(operator, Jpeg) else 1.0)
    if isinstance(operator, Composed) and isinstance(operator.outer, Jpeg):
        left = max(left, STEPS * operator.outer.step)
    return joint_denoiser(priors, left)(x) if left else x


ROUNDED = 0.5
"""What took noise of .05 out of JPEG files of quality 30, 75 and 90 best on the whole, of .25, .5, .7 and 1."""
SHARED = 1.5
"""What took noise of .05 and .15 out of mixtures of digits best, of 1 and 1.5."""
STEPS = 0.2
"""Of JPEG's mean quantization step: what is left of its rounding in mixtures of digits, of quality 75 and 50."""


def relative_levels(operator: Operator, ladder: float) -> list[float]:
    """``(mean(alpha) / alpha_i)^ladder`` of each component of a mixture, else 1."""
    nominal = getattr(operator, "nominal", None)
    alpha = [abs(a) for a in nominal.alpha] if nominal else [1.0] * operator.k
    return [(sum(alpha) / len(alpha) / a) ** ladder for a in alpha]


def near_gray(operator: Operator, y: Tensor, priors: Sequence[Prior]) -> Tensor:
    """The pictures nearest to gray ones that explain ``y``, or gray ones where the operator does not know them."""
    x = y.new_full((operator.k, len(y), *priors[0].shape), 0.5)
    if not isinstance(operator, Constraint):
        return x
    x = operator.project(x, y)
    for _ in range(8 if isinstance(operator, Gray) else 0):  # of another weight the nearest to one gray is coloured
        x = operator.project(x.mean(2, keepdim=True).expand_as(x), y)
    return x

"""Samplers that denoise, correct by what was observed, and renoise: one or a few evaluations a noise level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..api import Prior, SamplerSpec
from ..errors import UsageError
from ..operators import Constraint, LinearOperator, Mixture, Operator, consistent, linearized
from .base import (
    Descent,
    Progress,
    Watch,
    check_finite,
    descend,
    joint_denoiser,
    joint_score,
    unwatched,
    weighted,
)
from .noise import PerImageNoise
from .schedules import karras, linear

Estimate = Callable[[Tensor, float], Tensor]
"""``E[x0 | x, y]``, approximately, from noisy components ``x`` ``(k, n, c, h, w)`` and their noise level."""


def _renoised(
    estimate: Estimate,
    start: Tensor,
    seeds: Sequence[int],
    sigmas: Sequence[float],
    watch: Watch,
    descent: Descent,
    overrelaxation: float = 0.0,
    ancestral: bool = False,
) -> Tensor:
    """``x0 <- estimate(x, s); x <- x0 + t e`` from each level s to the next, t: the frame of every sampler below.

    ``e`` is noise made of the old one and of ``z``, drawn afresh::

        e = sqrt(1 - w^2) z - w (x - x0) / s

    With ``w = 0`` all noise is forgotten at every level: it is what lets a chain leave a wrong assignment of detail to
    components. Keeping some of it (``w < 0``, DDIM-like) separation with one prior for all stays near the mean
    picture. Negating it (``0 < w <= 1``, Adler's overrelaxation, 1981) lets the errors of successive estimates
    cancel, so that fewer levels do; but it also narrows the samples, which come out too much alike already, since
    fresh noise forgets how unsure ``x0`` was. ``ancestral`` renoises as the reverse of adding noise does (DDPM, Ho et
    al. 2020), which keeps that spread, at more levels for the same quality::

        x <- x0 + (t / s)^2 (x - x0) + t sqrt(1 - (t / s)^2) z
    """
    if not -1 <= overrelaxation <= 1:
        raise UsageError(f"overrelaxation is from -1 to 1, not {overrelaxation:g}")
    noise = PerImageNoise(seeds, start.device)
    x = start + sigmas[0] * noise.normal(start.shape)
    for level, sigma in descent(sigmas, x, noise):
        x0 = estimate(x, sigma)
        watch(Progress(level, len(sigmas), level, len(sigmas), sigma, x0))
        if level + 1 < len(sigmas):
            after = sigmas[level + 1]
            if ancestral:
                keep = (after / sigma) ** 2 if level > 0 else 0.0  # the first estimate forgets the start
                fresh = after * (1 - keep) ** 0.5
            else:
                keep = -overrelaxation * after / sigma
                fresh = after * (1 - overrelaxation**2) ** 0.5
            x.copy_(x0 + fresh * noise.normal(x0.shape) + keep * (x - x0))
    check_finite(x0, sigmas[-1])
    return x0


def _start(operator: Operator, y: Tensor, priors: Sequence[Prior]) -> Tensor:
    """The pictures nearest to gray ones that explain ``y``, or gray ones where the operator does not know them."""
    gray = y.new_full((operator.k, len(y), *priors[0].shape), 0.5)
    return operator.project(gray, y) if isinstance(operator, Constraint) else gray


def project(
    priors: Sequence[Prior],
    operator: Constraint,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(50),
    overrelaxation: float = 0.0,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Denoise, project onto ``A x = y``, renoise in full; one network evaluation a level::

        x0 <- the nearest to D(x) with A x0 = y,   x <- x0 + sigma_next z

    For a linear operator that is ``D(x) + A^+ (y - A D(x))`` (DDNM, Wang et al. 2023); JPEG's coefficients are moved
    into the file's quantization intervals. The renoising is DDIM's with eta = 1 taken to the end. For measurements
    without noise. Good pictures from few evaluations, but it is not exact, and too sure of itself: the
    spread of its samples is below the posterior's. With ``overrelaxation`` w, from -1 to 1, the old noise takes part:
    ``sqrt(1 - w^2) z - w (x - x0) / sigma`` in place of ``z`` (Adler 1981); the larger, the likelier the answers and
    the smaller their spread. Other arguments, result and errors as :func:`langevin`.

    Raises:
        UsageError: an operator that knows no nearest solution.
    """
    if not isinstance(operator, Constraint):
        raise UsageError("the sampler 'project' needs an operator with project(x, y)", "--sampler conjugate")

    def estimate(x: Tensor, sigma: float) -> Tensor:
        return operator.project(joint_denoiser(priors, sigma)(x), y)

    return _renoised(estimate, _start(operator, y, priors), seeds, sigmas, watch, descent, overrelaxation)


def conjugate(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(50),
    noise_std: float = 0.0,
    prior_std: float | Sequence[float] = 0.3,
    overrelaxation: float = 0.0,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Denoise, correct as a Gaussian posterior would, renoise in full; one network evaluation a level::

        x0_i <- D_i(x_i) + r_i^2 A_i^T S^-1 (y - A D(x)),   S = noise_std^2 I + sum_j r_j^2 A_j A_j^T
        r_i^2 = sigma^2 v_i / (sigma^2 + v_i)

    ``r_i^2`` is the variance left in component ``i`` once its noisy version is seen, were it white with variance
    ``v_i = prior_std_i^2`` (PiGDM, Song et al. 2023; DiffPIR, Zhu et al. 2023). With equal variances and no noise it is
    :func:`project`. ``prior_std`` is one standard deviation of the pixels for all, or one for each component.

    A non-linear operator is linearized about ``D(x)`` (one Gauss-Newton step a level) and ``S`` solved by conjugate
    gradients. Not exact: the spread of its samples is below the posterior's. Otherwise as :func:`project`.
    """
    stds = [prior_std] * operator.k if isinstance(prior_std, (int, float)) else prior_std

    def estimate(x: Tensor, sigma: float) -> Tensor:
        denoised = joint_denoiser(priors, sigma)(x)
        residual = y - operator(denoised)
        left = [sigma**2 * std**2 / (sigma**2 + std**2) for std in stds]
        if isinstance(operator, LinearOperator) and operator.gram:
            total = noise_std**2 + sum(r2 * gram for r2, gram in zip(left, operator.gram, strict=True))
            return denoised + weighted(left, operator.adjoint(residual / total))
        return denoised + _gain(operator, denoised, partial(weighted, left), residual, noise_std, steps=10)

    return _renoised(estimate, _start(operator, y, priors), seeds, sigmas, watch, descent, overrelaxation)


def ep(
    priors: Sequence[Prior],
    operator: Mixture,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = linear(25),
    noise_std: float = 0.0,
    prior_std: float = 0.22,
    overrelaxation: float = 0.9,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """One round of expectation propagation a level, then :func:`conjugate`'s correction; two evaluations a level::

        o_i = (y - sum_{j != i} alpha_j D_j(x_j)) / alpha_i       what is left of the mixture for component i
        v_i = (noise_std^2 + sum_{j != i} alpha_j^2 r^2) / alpha_i^2    and how sure that is
        x~_i = s~_i^2 (x_i / sigma^2 + o_i / v_i),   s~_i^-2 = sigma^-2 + v_i^-1
        x0 <- D(x~, s~) corrected, and without noise the nearest to that in [0, 1] with A x0 = y, nearly

    The second denoising sees two observations of each component instead of one, at the lower noise level ``s~_i``
    (Minka 2001, with isotropic Gaussian messages). ``prior_std`` sets ``r`` as in :func:`conjugate`; its default is
    what separated digits best. For mixtures, and priors that take any noise level. Not exact: the spread of its
    samples is below the posterior's. Otherwise as :func:`project`.

    Raises:
        UsageError: the operator is no mixture.
    """
    if not isinstance(operator, Mixture):
        raise UsageError("the sampler 'ep' separates mixtures only", "--sampler conjugate")
    total = sum(operator.gram)

    def estimate(x: Tensor, sigma: float) -> Tensor:
        r2 = sigma**2 * prior_std**2 / (sigma**2 + prior_std**2)
        denoised = joint_denoiser(priors, sigma)(x)
        rest = (y - operator(denoised)).expand_as(denoised)
        seen = denoised + weighted([1 / alpha for alpha in operator.alpha], rest)
        v = [max((noise_std**2 + (total - gram) * r2) / gram, 1e-4 * sigma**2) for gram in operator.gram]
        s2 = [sigma**2 * vi / (sigma**2 + vi) for vi in v]
        share = [si / sigma**2 for si in s2]  # of x in the mean of both observations
        observed = weighted(share, x) + weighted([1 - w for w in share], seen)
        x0 = joint_denoiser(priors, [si**0.5 for si in s2])(observed)
        x0 = x0 + r2 * operator.adjoint(y - operator(x0)) / (noise_std**2 + r2 * total)
        return x0 if noise_std else consistent(x0, operator, y, rounds=3)

    return _renoised(estimate, _start(operator, y, priors), seeds, sigmas, watch, descent, overrelaxation)


def mmps(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(50),
    noise_std: float = 0.0,
    cg_steps: int = 3,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Moment matching posterior sampling (Rozet et al. 2024): the prior itself says how sure each pixel is::

        x0 <- D(x) + C A^T S^-1 (y - A D(x)),   C = Cov[x0 | x] = sigma^2 dD/dx,   S = noise_std^2 I + A C A^T

    ``S`` is solved by ``cg_steps`` conjugate-gradient steps, each with a vector-Jacobian product through the network
    that costs about two evaluations more. Renoised as in ancestral sampling, so that the spread of the samples is the
    posterior's: exact for Gaussian priors as levels and ``cg_steps`` grow, from below (docs/samplers.md has figures).
    For honest uncertainty; ``project`` and ``ep`` make better single pictures. Otherwise as :func:`langevin`.

    Raises:
        UsageError: a prior whose score cannot be differentiated.
    """

    def estimate(x: Tensor, sigma: float) -> Tensor:
        with torch.enable_grad():
            noisy = x.detach().clone().requires_grad_()
            score = joint_score(priors, sigma)(noisy)
            if not score.requires_grad:
                raise UsageError("mmps needs a prior whose score can be differentiated", "--sampler langevin")
            denoised = noisy + sigma**2 * score

            def covariance(v: Tensor) -> Tensor:
                (product,) = torch.autograd.grad(denoised, noisy, v.to(denoised.dtype), retain_graph=True)
                return sigma**2 * product

            mean = denoised.detach()
            residual = y - operator(mean)
            return mean + _gain(operator, mean, covariance, residual, noise_std, cg_steps)

    return _renoised(estimate, _start(operator, y, priors), seeds, sigmas, watch, descent, ancestral=True)


def _gain(
    operator: Operator,
    x: Tensor,
    covariance: Callable[[Tensor], Tensor],
    residual: Tensor,
    noise_std: float,
    steps: int,
) -> Tensor | float:
    """``C A^T (noise_std^2 I + A C A^T)^-1 residual`` by conjugate gradients, each picture its own system.

    A non-linear operator is replaced by its derivative at ``x``.
    """
    local = linearized(operator, x)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1)

    def wide(a: Tensor) -> Tensor:
        """One number a picture ``(n,)``, to multiply what is shaped like ``residual``."""
        return a.view(-1, *[1] * (residual.ndim - 1))

    solution: Tensor | float = 0.0  # C A^T of the system's, which needs no product of its own
    rest = direction = residual
    square = dot(rest, rest)
    tiny = torch.finfo(residual.dtype).tiny
    for _ in range(steps):
        spread = covariance(local.adjoint(direction))
        image = noise_std**2 * direction + local(spread)
        curvature = dot(direction, image)  # a network's derivative need not be symmetric: stop where it curves down
        length = torch.where(curvature > 0, square / curvature.clamp_min(tiny), 0.0)
        solution, rest = solution + length.view(-1, 1, 1, 1) * spread, rest - wide(length) * image
        before, square = square, dot(rest, rest)
        direction = rest + wide(square / before.clamp_min(tiny)) * direction
    return solution


KARRAS = "basis_cli.samplers.schedules:karras"
SAMPLERS = (
    SamplerSpec(
        "ep",
        "separates best: two evaluations a level, the second of what the other components leave of the mixture",
        "basis_cli.samplers.denoising:ep",
        ladder="basis_cli.samplers.schedules:linear",
        evaluations=2,
    ),
    SamplerSpec(
        "project",
        "for all tasks without noise: denoise, move onto the measurement, renoise",
        "basis_cli.samplers.denoising:project",
        ladder=KARRAS,
    ),
    SamplerSpec(
        "conjugate",
        "for noisy measurements and any operator: denoise, correct as a Gaussian posterior would, renoise",
        "basis_cli.samplers.denoising:conjugate",
        ladder=KARRAS,
    ),
    SamplerSpec(
        "mmps",
        "for honest uncertainty: moment matching, seven evaluations a level",
        "basis_cli.samplers.denoising:mmps",
        ladder=KARRAS,
        evaluations=7,
        calibrated=True,
    ),
)

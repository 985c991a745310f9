"""Samplers that denoise, correct by what was observed, and renoise: one or a few evaluations a noise level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..api import Prior, SamplerSpec
from ..errors import UsageError
from ..operators import (
    Blurred,
    Constraint,
    LinearOperator,
    Operator,
    Updating,
    begun,
    consistent,
    fitted,
    linearized,
    misfit,
)
from .base import (
    Descent,
    Watch,
    descend,
    joint_denoiser,
    joint_score,
    unwatched,
    weighted,
)
from .noise import PerImageNoise, image_seed
from .renoising import relative_levels, renoised
from .schedules import karras, linear


def project(
    priors: Sequence[Prior],
    operator: Constraint,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(50),
    noise_std: float = 0.0,
    overrelaxation: float = 0.0,
    ladder: float = 1.6,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Denoise, project onto ``A x = y``, renoise in full; one network evaluation a level::

        x0 <- the nearest to D(x) with A x0 = y,   x <- x0 + sigma_next z

    For a linear operator that is ``D(x) + A^+ (y - A D(x))`` (DDNM, Wang et al. 2023); JPEG's coefficients are moved
    into the file's quantization intervals. The renoising is DDIM's with eta = 1 taken to the end. Noise of
    ``noise_std`` in ``y`` is explained like the rest of it, and taken out at the end by one more denoising. Good
    pictures from few evaluations, but it is not exact, and too sure of itself: the
    spread of its samples is below the posterior's. Components of a mixture have levels of their own, ``sigma_i = sigma
    (mean(alpha) / alpha_i)^ladder``, and what is left to explain is shared in proportion to ``alpha_i sigma_i^2``: with
    ``ladder`` 0 the strong component is settled, the weak one's ghost in it, long before that. Coefficients that are
    not known are fitted at every level that the operator says.

    With ``overrelaxation`` w, from -1 to 1, the old noise takes part: ``sqrt(1 - w^2) z - w (x - x0) /
    sigma`` in place of ``z`` (Adler 1981); the larger, the likelier the answers and the smaller their spread. Other
    arguments, result and errors as :func:`langevin`.

    Raises:
        UsageError: an operator that knows no nearest solution.
    """
    if not isinstance(operator, Constraint):
        raise UsageError("the sampler 'project' needs an operator with project(x, y)", "--sampler conjugate")

    made, first = begun(operator, y), relative_levels(operator, ladder)[0]

    def estimate(x: Tensor, sigmas: list[float]) -> Tensor:
        nonlocal made
        denoised = joint_denoiser(priors, sigmas)(x)
        made = fitted(made, denoised, y, 0.5, sigmas[0] / first)
        linear = isinstance(made, LinearOperator)
        if isinstance(made, Updating) and not (linear and len(set(sigmas)) == 1):  # in units of each one's noise
            return made.update(denoised, _each([sigma**2 for sigma in sigmas], x), y)[0]
        return made.project(denoised, y)  # type: ignore[no-any-return]

    return renoised(
        estimate,
        priors,
        operator,
        y,
        seeds,
        sigmas,
        watch,
        descent,
        overrelaxation=overrelaxation,
        ladder=ladder,
        noise_std=noise_std,
    )


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
    ladder: float = 1.6,
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

    Raises:
        UsageError: JPEG, whose rounding has no derivative that could be inverted.
    """
    if isinstance(operator, Constraint) and not isinstance(operator, (LinearOperator, Updating)):
        raise UsageError("the sampler 'conjugate' cannot invert this operator", "--sampler project, mmps or langevin")
    stds = [prior_std] * operator.k if isinstance(prior_std, (int, float)) else prior_std

    def estimate(x: Tensor, sigmas: list[float]) -> Tensor:
        denoised = joint_denoiser(priors, sigmas)(x)
        left = [sigma**2 * std**2 / (sigma**2 + std**2) for sigma, std in zip(sigmas, stds, strict=True)]
        if isinstance(operator, Updating):
            return operator.update(denoised, _each(left, x), y, noise_std)[0]
        residual = misfit(operator, denoised, y)
        if isinstance(operator, LinearOperator) and operator.gram:
            total = noise_std**2 + sum(r2 * gram for r2, gram in zip(left, operator.gram, strict=True))
            return denoised + weighted(left, operator.adjoint(residual / total))
        return denoised + _gain(operator, denoised, partial(weighted, left), residual, noise_std, steps=10)

    return renoised(
        estimate, priors, operator, y, seeds, sigmas, watch, descent, overrelaxation=overrelaxation, ladder=ladder
    )


def ep(
    priors: Sequence[Prior],
    operator: Updating,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = linear(25),
    noise_std: float = 0.0,
    prior_std: float = 0.22,
    overrelaxation: float = 0.9,
    ladder: float = 1.6,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """One round of expectation propagation a level (Minka 2001); two evaluations a level::

        m_i, r_i^2   D_i(x_i) and the variance left in it, as in :func:`conjugate`: what is believed of component i
        m'_i, c_i    the same once y is seen, all other components being what is believed of them
        o_i, v_i     what y alone says of it:  1 / v_i = 1 / c_i - 1 / r_i^2,  o_i / v_i = m'_i / c_i - m_i / r_i^2
        x~_i = s~_i^2 (x_i / s_i^2 + o_i / v_i),   s~_i^-2 = s_i^-2 + v_i^-1
        x0 <- the same once y is seen, of D(x~, s~); then the nearest to that in [0, 1] with A x0 = y, nearly

    For a mixture ``o_i = (y - sum_{j != i} alpha_j m_j) / alpha_i`` and ``v_i = sum_{j != i} alpha_j^2 r_j^2 /
    alpha_i^2``: the second denoising sees what the others leave of it. It sees two observations of each
    component instead of one, at the lower noise level ``s~_i``. ``prior_std`` sets ``r``; its default is what
    separated digits best. Where ``y`` says little of a pixel, as where it is cut at white, ``o_i`` stays nearer to what
    is believed. Noise in ``y`` is treated as by :func:`project`. For mixtures of all kinds, and priors that take any
    noise level. Coefficients that are not known are fitted at every level that the operator says. Not exact: the
    spread of its samples is below the posterior's. Otherwise as :func:`project`.

    Raises:
        UsageError: the operator is no mixture.
    """
    if not isinstance(operator, Updating):
        raise UsageError("the sampler 'ep' separates mixtures only", "--sampler conjugate")
    if isinstance(operator.nominal, Blurred):  # what y tells of them is far from the same for all frequencies
        raise UsageError("the sampler 'ep' separates pictures in focus only", "--sampler project")

    made, first = begun(operator, y), relative_levels(operator, ladder)[0]

    def estimate(x: Tensor, sigmas: list[float]) -> Tensor:
        nonlocal made
        left = [sigma**2 * prior_std**2 / (sigma**2 + prior_std**2) for sigma in sigmas]
        r2, told = _each(left, x), _told(operator, left)
        after = [
            max((1 / sigma**2 + t / (1 - t) / r) ** -0.5, sigma / 100)
            for sigma, t, r in zip(sigmas, told, left, strict=True)
        ]
        old = [(new / sigma) ** 2 for new, sigma in zip(after, sigmas, strict=True)]  # the share of x in x~
        denoised = joint_denoiser(priors, sigmas)(x)
        mean, variance = made.update(denoised, r2, y)
        seen = denoised + (mean - denoised) / (1 - variance / r2).maximum(_each(told, x))
        observed = weighted(old, x) + weighted([1 - share for share in old], seen)
        x0 = joint_denoiser(priors, after)(observed)
        made = fitted(made, x0, y, 0.5, sigmas[0] / first)
        x0, _ = made.update(x0, r2, y)
        return consistent(x0, made, y, rounds=3)

    return renoised(
        estimate,
        priors,
        operator,
        y,
        seeds,
        sigmas,
        watch,
        descent,
        overrelaxation=overrelaxation,
        ladder=ladder,
        noise_std=noise_std,
    )


def _each(values: Sequence[float], x: Tensor) -> Tensor:
    """One number for each component, to compute with ``x`` ``(k, n, c, h, w)``."""
    return x.new_tensor(values).view(-1, 1, 1, 1, 1)


def _told(operator: Updating, left: Sequence[float]) -> list[float]:
    """The share of each component's variance ``left`` that ``y`` takes at pixels of which all is seen.

    Computed on the CPU, so that no GPU is waited for.
    """
    nothing = torch.zeros(operator.k, 1, 1, 1, 1, dtype=torch.float64)
    r2 = _each(left, nothing)
    _, variance = operator.nominal.update(nothing, r2, operator.nominal(nothing))
    return (1 - variance / r2).flatten().tolist()


def mmps(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(50),
    noise_std: float = 0.0,
    cg_steps: int = 3,
    root_steps: int = 0,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Moment matching posterior sampling (Rozet et al. 2024): the prior itself says how sure each pixel is::

        x0 <- D(x) + C A^T S^-1 (y - A D(x)),   C = Cov[x0 | x] = sigma^2 dD/dx,   S = noise_std^2 I + A C A^T

    ``S`` is solved by ``cg_steps`` conjugate-gradient steps, each with a vector-Jacobian product through the network
    that costs about two evaluations more. Renoised as in ancestral sampling, so that the spread of the samples is the
    posterior's: exact for Gaussian priors as levels and ``cg_steps`` grow, from below (docs/concepts/samplers.md).
    With ``root_steps`` ``x0`` is a sample of that Gaussian instead of its mean, ``D(x) + C^(1/2) e`` corrected in the
    same way (Matheron's rule), by as many Lanczos steps: exact for Gaussian priors at any levels.
    For honest uncertainty; ``project`` and ``ep`` make better single pictures. Otherwise as :func:`langevin`.

    Raises:
        UsageError: a prior whose score cannot be differentiated.
    """

    fresh = PerImageNoise([image_seed(seed, 1) for seed in seeds], y.device)

    def estimate(x: Tensor, sigmas: list[float]) -> Tensor:
        variances = [sigma**2 for sigma in sigmas]
        with torch.enable_grad():
            noisy = x.detach().clone().requires_grad_()
            score = joint_score(priors, sigmas)(noisy)
            if not score.requires_grad:
                raise UsageError("mmps needs a prior whose score can be differentiated", "--sampler langevin")
            denoised = noisy + weighted(variances, score)

            def covariance(v: Tensor) -> Tensor:
                (product,) = torch.autograd.grad(denoised, noisy, v.to(denoised.dtype), retain_graph=True)
                return weighted(variances, product)

            x0 = denoised.detach()
            if root_steps:
                x0 = x0 + _root(covariance, fresh.normal(tuple(x.shape)), root_steps)
            residual = misfit(operator, x0, y)
            if root_steps and noise_std:
                residual = residual + noise_std * fresh.normal((1, *y.shape))[0]
            return x0 + _gain(operator, x0, covariance, residual, noise_std, cg_steps)

    return renoised(estimate, priors, operator, y, seeds, sigmas, watch, descent, ancestral=True)


def _root(product: Callable[[Tensor], Tensor], z: Tensor, steps: int) -> Tensor:
    """``C^(1/2) z`` of a positive ``C`` known by its ``product``, each of the pictures ``z`` ``(k, n, c, h, w)`` by
    itself: ``|z| V T^(1/2) e_1`` with the basis ``V`` and the tridiagonal ``T`` of Lanczos' method."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((0, 2, 3, 4))

    def wide(a: Tensor) -> Tensor:
        return a.view(1, -1, 1, 1, 1)

    length = dot(z, z).sqrt()
    basis, before, off = [z / wide(length)], torch.zeros_like(z), torch.zeros_like(length)
    matrix = z.new_zeros(z.shape[1], steps, steps)
    for i in range(steps):
        image = product(basis[i]) - wide(off) * before
        matrix[:, i, i] = dot(image, basis[i])
        image = image - wide(matrix[:, i, i]) * basis[i]
        if i + 1 < steps:
            off, before = dot(image, image).sqrt(), basis[i]
            matrix[:, i, i + 1] = matrix[:, i + 1, i] = off
            basis.append(image / wide(off.clamp_min(torch.finfo(off.dtype).tiny)))
    values, vectors = torch.linalg.eigh(matrix)
    weights = (vectors * values.clamp_min(0).sqrt()[:, None] * vectors[:, :1]).sum(2)  # T^(1/2) e_1
    return sum(wide(length * weights[:, i]) * each for i, each in enumerate(basis))  # type: ignore[return-value]


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
        cites=("minka2001",),
    ),
    SamplerSpec(
        "project",
        "for all tasks without noise: denoise, move onto the measurement, renoise",
        "basis_cli.samplers.denoising:project",
        ladder=KARRAS,
        cites=("wang2023", "karras2022"),
    ),
    SamplerSpec(
        "conjugate",
        "for noisy measurements and any operator: denoise, correct as a Gaussian posterior would, renoise",
        "basis_cli.samplers.denoising:conjugate",
        ladder=KARRAS,
        cites=("song2023", "zhu2023", "karras2022"),
    ),
    SamplerSpec(
        "mmps",
        "for honest uncertainty: moment matching, seven evaluations a level",
        "basis_cli.samplers.denoising:mmps",
        ladder=KARRAS,
        evaluations=7,
        calibrated=True,
        cites=("rozet2024", "karras2022"),
    ),
)

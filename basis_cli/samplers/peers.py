"""Samplers of other authors, to compare with on the same network (``basis bench peers``).

Each as its paper has it for an observation without noise, in this package's noise levels: ``x = x0 + s z``, intensities
in [0, 1]. Arguments, result and errors of all are those of :func:`basis_cli.samplers.langevin`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..api import Prior, SamplerSpec
from ..errors import UsageError
from ..operators import Constraint, Gray, LinearOperator, Mixture, Operator
from .base import Descent, Progress, Watch, check_finite, descend, joint_denoiser, joint_score, unwatched
from .denoising import project
from .noise import PerImageNoise
from .renoising import near_gray
from .schedules import geometric, karras

Step = Callable[[Tensor, float, float, PerImageNoise], tuple[Tensor, Tensor]]
"""From ``x`` at the level ``s``, and the next level ``t`` (0 after the last): what is believed of the clean pictures,
and ``x`` at ``t``; all ``(k, n, c, h, w)``."""


def dps(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(100),
    guidance: float = 3.0,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Diffusion posterior sampling (Chung et al. 2023, Algorithm 1)::

        x <- ancestral(x, D(x)) - guidance grad_x |y - A D(x)|

    The gradient goes through the network. For any differentiable operator. ``guidance`` took train mixtures of digits
    apart best of .1, .3, 1 and 3.
    """

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        noisy, denoised = differentiable(priors, x, s)
        with torch.enable_grad():
            distance = (y - operator(denoised)).flatten(1).norm(dim=1).sum()
        (gradient,) = torch.autograd.grad(distance, noisy)
        x0 = denoised.detach()
        return x0, ancestral(x, x0, s, t, noise) - guidance * gradient

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent)


def pigdm(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(100),
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Pseudoinverse guidance (Song et al. 2023, Algorithm 1, with its adaptive weights and eta = 1)::

        x <- ancestral(x, D(x)) + sqrt(1 + (2t)^2) (dD/dx)^T A^+ (y - A D(x))

    The root turns the paper's steps, which keep the variance of pictures in [-1, 1], into this package's.
    """
    _linear(operator, "pigdm")

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        noisy, denoised = differentiable(priors, x, s)
        x0 = denoised.detach()
        (guide,) = torch.autograd.grad(denoised, noisy, operator.pinv(y - operator(x0)).to(denoised.dtype))
        return x0, ancestral(x, x0, s, t, noise) + (1 + (2 * t) ** 2) ** 0.5 * guide

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent)


def ddrm(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(100),
    eta: float = 0.85,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Denoising diffusion restoration (Kawar et al. 2022, equations 7 and 8 with eta_b = 1)::

        x <- A^+ y + P D(x) + t (A^+ A z + P (eta z + sqrt(1 - eta^2) (x - D(x)) / s)),   P = I - A^+ A

    Without noise in ``y`` all singular values are treated alike, so no decomposition of ``A`` is needed.
    """
    _linear(operator, "ddrm")

    def open_part(v: Tensor) -> Tensor:
        return v - operator.pinv(operator(v))

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        denoised, z = joint_denoiser(priors, s)(x), noise.normal(tuple(x.shape))
        x0 = operator.pinv(y) + open_part(denoised)
        kept = (eta - 1) * z + (1 - eta**2) ** 0.5 * (x - denoised) / s
        return x0, x0 + t * (z + open_part(kept))

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent)


diffpir = partial(project, overrelaxation=-(0.4**0.5), ladder=0.0)
"""DiffPIR (Zhu et al. 2023, Algorithm 1): without noise in ``y`` its data step is that of :func:`project`, and it
renoises with ``sqrt(zeta) z + sqrt(1 - zeta) (x - x0) / s``. ``zeta`` is .6, better than .3 on train pictures."""


def dpir(
    priors: Sequence[Prior],
    operator: Constraint,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = geometric(8, 49 / 255, 0.01),
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Plug-and-play restoration (Zhang et al. 2021), eight rounds of half-quadratic splitting without random numbers.

    From a smooth picture that explains ``y``, as the paper begins with an interpolation::

        x <- D(the nearest to x with A x = y)
    """
    if not isinstance(operator, Constraint):
        raise UsageError("the sampler 'dpir' needs an operator with project(x, y)", "--sampler dps")

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        begun = _interpolated(operator, x, y) if s == sigmas[0] else operator.project(x, y)
        x0 = joint_denoiser(priors, s)(begun)
        return x0, x0

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent, begun=0.0)


def _interpolated(operator: Constraint, x: Tensor, y: Tensor, rounds: int = 100) -> Tensor:
    """``x`` ``(k, n, c, h, w)`` smoothed, and moved onto what was observed, in turn; colours are not filled in."""
    for _ in range(0 if isinstance(operator, Gray) else rounds):
        smooth = F.avg_pool2d(F.pad(x.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        x = operator.project(smooth.view_as(x), y)
    return x


def daps(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(50),
    ode_steps: int = 2,
    chain: float = 0.0025,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Decoupled annealing posterior sampling (Zhang et al. 2025, Algorithm 1)::

        x0 <- the probability flow from x, s down to 0, in ode_steps steps
        x0 <- where Langevin dynamics is after a time ``chain`` from there, under N(x0, s^2 I) given A x0 = y
        x <- x0 + t z

    The paper takes a hundred steps of 1e-4 for pictures in [-1, 1]. For a linear operator their outcome is Gaussian, of
    variance ``s^2 (1 - exp(-2 chain / s^2))`` in what is open, and drawn at once. The last draw is left out.
    """
    _linear(operator, "daps")

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        for level, after in _evenly(s, ode_steps):
            x0 = joint_denoiser(priors, level)(x)
            x = x0 + after / level * (x - x0)
        spread = s * (1 - math.exp(-2 * chain / s**2)) ** 0.5 if t else 0.0
        x0 = _explaining(operator, x0 + spread * noise.normal(tuple(x.shape)), y)
        return x0, x0 + t * noise.normal(tuple(x.shape))

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent)


def pnp_dm(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(50),
    sde_steps: int = 2,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Plug-and-play diffusion, a Gibbs sampler split in two (Wu et al. 2024, Algorithm 1), coupled by ``s``::

    z <- a draw from N(x, s^2 I) given A z = y
    x <- a draw from p(x | z = x + s noise), by the reverse of adding noise from s down to 0, in sde_steps steps

    ``sde_steps`` is what did well with as many evaluations, of 1, 2, 3 on train mixtures and train pictures with gaps.
    """
    _linear(operator, "pnp-dm")

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        x = _explaining(operator, x + s * noise.normal(tuple(x.shape)), y)
        for level, after in _evenly(s, sde_steps):
            x0 = joint_denoiser(priors, level)(x)
            x = ancestral(x, x0, level, after, noise)
        return x0, x

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent, begun=0.0)


def msdm(
    priors: Sequence[Prior],
    operator: Mixture,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(100),
    churn: float = 20.0,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Multi-source diffusion with the Dirac likelihood (Mariani et al. 2024, Algorithm 1)::

        x_k <- (y - sum_{i < k} alpha_i x_i) / alpha_k
        x_i <- x_i + (s - t) s (score_i(x_i) - alpha_i / alpha_k score_k(x_k)),   i < k

    ``churn`` adds noise before each step (Karras et al. 2022, Algorithm 2). For mixtures.
    """
    if not isinstance(operator, Mixture):
        raise UsageError("the sampler 'msdm' separates mixtures only", "--sampler ddrm")
    *free, last = operator.alpha
    relative = y.new_tensor([a / last for a in free]).view(-1, 1, 1, 1, 1)

    def completed(x: Tensor) -> Tensor:
        return torch.cat([x[:-1], (y / last - (relative * x[:-1]).sum(0))[None]])

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        raised = s * (1 + min(churn / len(sigmas), 2**0.5 - 1))
        x = completed(x + (raised**2 - s**2) ** 0.5 * noise.normal(tuple(x.shape)))
        score = joint_score(priors, raised)(x)
        free_score = torch.cat([score[:-1] - relative * score[-1:], torch.zeros_like(score[-1:])])
        return completed(x + raised**2 * free_score), completed(x + (raised - t) * raised * free_score)

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent)


def repaint(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = karras(20),
    repeats: int = 5,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """RePaint (Lugmayr et al. 2022, Algorithm 1), whose mask is any linear operator here; ``repeats`` times a level::

    x' <- ancestral(x, D(x)), and what is seen of it <- y with noise of t
    x <- x' with noise added up to s again, but for the last time
    """
    _linear(operator, "repaint")

    def step(x: Tensor, s: float, t: float, noise: PerImageNoise) -> tuple[Tensor, Tensor]:
        for again in reversed(range(repeats)):
            x0 = joint_denoiser(priors, s)(x)
            lower = ancestral(x, x0, s, t, noise)
            lower = _explaining(operator, lower, y + t * operator(noise.normal(tuple(x.shape))))
            if again:
                x = lower + (s**2 - t**2) ** 0.5 * noise.normal(tuple(x.shape))
        return x0, lower

    return walked(step, priors, operator, y, seeds, sigmas, watch, descent)


def walked(
    step: Step,
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    seeds: Sequence[int],
    sigmas: Sequence[float],
    watch: Watch,
    descent: Descent,
    begun: float = 1.0,
) -> Tensor:
    """``step`` from each noise level to the next, from the pictures nearest to gray that explain ``y`` with noise.

    ``begun``: how much of the first level's.
    """
    noise, start = PerImageNoise(seeds, y.device), near_gray(operator, y, priors)
    x = start + begun * sigmas[0] * noise.normal(tuple(start.shape))
    for level, sigma in descent(sigmas, x, noise):
        after = sigmas[level + 1] if level + 1 < len(sigmas) else 0.0
        x0, lower = step(x, sigma, after, noise)
        watch(Progress(level, len(sigmas), level, len(sigmas), sigma, x0))
        x.copy_(lower)
    check_finite(x, sigmas[-1])
    return x


def ancestral(x: Tensor, x0: Tensor, s: float, t: float, noise: PerImageNoise) -> Tensor:
    """A step of the reverse of adding noise, from the level ``s`` to ``t`` (DDPM, Ho et al. 2020)."""
    keep = (t / s) ** 2
    return x0 + keep * (x - x0) + t * (1 - keep) ** 0.5 * noise.normal(tuple(x.shape))


def differentiable(priors: Sequence[Prior], x: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """A copy of ``x``, and ``D`` of it, to differentiate by it.

    Raises:
        UsageError: a prior whose score cannot be differentiated.
    """
    with torch.enable_grad():
        noisy = x.detach().clone().requires_grad_()
        score = joint_score(priors, s)(noisy)
        if not score.requires_grad:
            raise UsageError("this sampler needs a prior whose score can be differentiated", "--sampler langevin")
        return noisy, noisy + s**2 * score


def _explaining(operator: LinearOperator, x: Tensor, y: Tensor) -> Tensor:
    """The nearest to ``x`` that explains ``y``."""
    return x + operator.pinv(y - operator(x))


def _evenly(s: float, steps: int) -> list[tuple[float, float]]:
    """From each of ``steps`` evenly spaced levels to the next, ``s`` down to 0."""
    levels = [s * (1 - i / steps) for i in range(steps)] + [0.0]
    return list(pairwise(levels))


def _linear(operator: Operator, name: str) -> None:
    if not isinstance(operator, LinearOperator):
        raise UsageError(f"the sampler {name!r} needs a linear operator", "--sampler dps")


def _spec(
    name: str, summary: str, cites: str, evaluations: int = 1, ladder: str = "basis_cli.samplers.schedules:karras"
) -> SamplerSpec:
    draw = f"basis_cli.samplers.peers:{name.replace('-', '_')}"
    return SamplerSpec(name, summary, draw, ladder, evaluations, cites=(cites,))


SAMPLERS = (
    _spec("dps", "a peer: guided by the gradient of the misfit, through the network", "chung2023", 3),
    _spec("pigdm", "a peer: the same with the pseudo-inverse", "song2023", 3),
    _spec("ddrm", "a peer: project, and keep some of the noise in what is open", "kawar2022"),
    _spec("diffpir", "a peer: project, and keep most of the noise", "zhu2023"),
    _spec(
        "dpir",
        "a peer: project and denoise in turn, eight times, without noise",
        "zhang2021",
        ladder="basis_cli.samplers.schedules:geometric",
    ),
    _spec("daps", "a peer: probability flow, a draw given y, renoise in full", "zhang2025", 2),
    _spec("pnp-dm", "a peer: a draw given y and a draw from the prior in turn", "wu2024", 2),
    _spec("msdm", "a peer for mixtures: the last component is what the others leave", "mariani2024"),
    _spec("repaint", "a peer: the known part with noise, each level repeated", "lugmayr2022", 5),
)

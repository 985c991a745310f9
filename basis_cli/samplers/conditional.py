"""A sampler for priors that know what a part of a picture says of the rest."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..api import Prior, SamplerSpec
from ..errors import UsageError
from ..operators import LinearOperator
from ..priors.given import is_given
from .base import Descent, Progress, Watch, check_finite, descend, joint_denoiser, unwatched
from .noise import PerImageNoise
from .schedules import wide


def conditional(
    priors: Sequence[Prior],
    operator: LinearOperator,
    y: Tensor,
    *,
    seeds: Sequence[int],
    sigmas: Sequence[float] = wide(25),
    overrelaxation: float = -0.9,
    watch: Watch = unwatched,
    descent: Descent = descend,
) -> Tensor:
    """Denoise and renoise what ``y`` leaves open, ``P = I - A^+ A``; one network evaluation a level::

        x0 <- A^+ y + P D(x; s | y),   x <- x0 + t P e,   e = sqrt(1 - w^2) z - w (x - x0) / s

    The network has learned ``D(x; s | y) = E[x0 | y, x]`` for pictures with noise in the null space of ``A`` alone, so
    this is the reverse of adding noise to what is unknown (Song et al. 2021), and what is known is seen without noise
    at every level. ``w``, ``overrelaxation``: -1 renoises with the old noise alone (DDIM), 0 with a new one, which is
    quicker, and narrower. Other arguments, result and errors as :func:`langevin`.

    Raises:
        UsageError: a prior that has not learned it (:class:`basis_cli.api.Conditional`).
    """
    if not all(map(is_given, priors)):
        raise UsageError("the prior has not learned what is known here", "--sampler project")
    if not -1 <= overrelaxation <= 1:
        raise UsageError(f"overrelaxation is from -1 to 1, not {overrelaxation:g}")
    noise, known = PerImageNoise(seeds, y.device), operator.pinv(y)

    def unknown(x: Tensor) -> Tensor:
        return x - operator.pinv(operator(x))

    x = known + sigmas[0] * unknown(noise.normal(known.shape))
    for level, sigma in descent(sigmas, x, noise):
        x0 = known + unknown(joint_denoiser(priors, sigma)(x))
        watch(Progress(level, len(sigmas), level, len(sigmas), sigma, x0))
        if level + 1 < len(sigmas):
            after, fresh = sigmas[level + 1], (1 - overrelaxation**2) ** 0.5
            kept = -overrelaxation / sigma * (x - x0)
            x.copy_(x0 + after * (fresh * unknown(noise.normal(x0.shape)) + kept))
    check_finite(x0, sigmas[-1])
    return x0


SAMPLERS = (
    SamplerSpec(
        "conditional",
        "for priors that learned with a part of the picture given: noise in the rest alone",
        "basis_cli.samplers.conditional:conditional",
        ladder="basis_cli.samplers.schedules:wide",
        calibrated=True,
    ),
)

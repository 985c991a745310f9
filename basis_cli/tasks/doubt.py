"""What an improbable answer may come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..api import Prior
    from ..compute import Compute
    from ..posterior import Sampling
    from .separation import Separate

QUICK = 10
"""Noise levels with which each other reading is tried."""


def other_readings(task: Separate) -> dict[str, Separate]:
    """What else a mixture may be, by the options that would say so."""
    from .separation import Mixing

    found = {"--invert": replace(task, invert=not task.invert)}
    if task.mixing is Mixing.mean:
        found |= {"--alpha auto": replace(task, alpha="auto")} if not task.unknown else {}
        found |= {
            f"--mixing {how.value}": replace(task, mixing=how, alpha=None, blur=None)
            for how in (Mixing.sum, Mixing.max)
        }
    if (task.alpha is None or task.unknown) and not task.blur:
        counts = [k for k in (task.k - 1, task.k + 1) if k > 1]
        found |= {f"-k {k}": replace(task, k=k) for k in counts}
    return found


def likely_cause(
    task: Separate, priors: Sequence[Prior], y: Tensor, before: float, sampling: Sampling, compute: Compute
) -> str | None:
    """The option under which the mixture ``y`` ``(1, c, h, w)`` gives the least improbable answer, quickly drawn.

    ``priors`` are those of whole pictures, before ``task`` suits them; ``before`` is how improbable the answer is that
    is to be explained. ``None`` if nothing explains it.
    """
    from ..operators import noise_std
    from ..posterior import Sampling, answers, surprise
    from ..samplers import picture_seeds

    if not sampling.noise_std and noise_std(y[0]):
        return "--noise-std auto"
    best, cause = min(before - LESS, surprise.IMPROBABLE), None
    one = len({id(prior) for prior in priors}) == 1
    quick = Sampling(levels=QUICK, seed=sampling.seed, noise_std=sampling.noise_std)
    seeds = picture_seeds(quick.seed, y, 1)
    for option, other in other_readings(task).items():
        if other.k != task.k and not one:
            continue
        own = list(priors[:1]) * other.k if one else list(priors)
        posterior = other.posterior(other.suited(own, (y.shape[2], y.shape[3])), quick)
        for _, result in answers(posterior, y, seeds, compute=compute, go_on=True):
            doubt = getattr(result, "surprise", None)  # a diverged chain has none
            if doubt is not None and float(doubt.mean()) < best:
                best, cause = float(doubt.mean()), option
    return cause


LESS = 0.1
"""By so much less improbable is an answer that explains another one."""

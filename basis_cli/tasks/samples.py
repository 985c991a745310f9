"""Draw pictures from a prior itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .base import Shape, Task, loaded

if TYPE_CHECKING:
    from torch import Tensor

    from ..api import Prior
    from ..compute import Compute
    from ..operators import Operator
    from ..posterior import Sampling
    from ..samplers import Watch


@dataclass(frozen=True)
class Sample(Task):
    """Nothing is observed: what the prior believes pictures look like."""

    name, noun, prior, defaults = "sample", "samples", "ncsn-mnist", {"sampler": "langevin"}

    def operator(self, shape: Shape) -> Operator:
        from ..operators import Unobserved

        return Unobserved(shape)


def sample(
    prior: str | Prior,
    count: int = 16,
    *,
    weights: Path | None = None,
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """``count`` samples of the prior itself, ``(count, c, h, w)`` in [0, 1].

    Raises:
        UsageError, UnknownPriorError, WeightsError, NotFiniteError.
    """
    import torch

    from ..compute import Compute
    from ..posterior import Sampling, drawn
    from ..samplers import unwatched
    from ..samplers.noise import image_seed

    sampling, compute = sampling or Sampling(), compute or Compute()
    if count < 1:
        raise UsageError(f"the number of samples must be at least 1, not {count}")
    posterior = Sample().posterior(loaded(Sample(), prior, weights, compute), sampling)
    seeds = [[image_seed(sampling.seed, index)] for index in range(count)]
    result = drawn(posterior, torch.zeros(count, 0), seeds, compute=compute, watch=watch or unwatched)
    return torch.stack([one.x[0, 0] for one in result.ranked]).clamp(0, 1)

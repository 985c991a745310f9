"""Draw pictures from a prior itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..api import Labelled
from ..errors import UsageError
from .base import Shape, Task
from .library import loaded, loaded_model

if TYPE_CHECKING:
    from torch import Tensor

    from ..api import DirectModel, Prior
    from ..compute import Compute
    from ..operators import Operator
    from ..posterior import Direct, Guided, Sampling
    from ..samplers import Watch


LANGEVIN = {"sampler": "langevin"}


@dataclass(frozen=True)
class Sample(Task):
    """Nothing is observed: what the prior believes pictures look like."""

    name, noun, prior = "sample", "samples", "ncsn-mnist"
    defaults = {"sampler": "project", "overrelaxation": -0.9, "sigma_max": 1.3, "sigma_min": 0.01}  # noqa: RUF012
    """Nearly the probability flow (Song et al. 2021), by steps of DDIM: docs/concepts/samplers.md."""
    presets = {"fast": {"levels": 20}, "best": LANGEVIN}  # noqa: RUF012

    def posterior(self, priors: Sequence[Prior], sampling: Sampling) -> Guided:
        """As of every task; the flow needs levels between those that a prior may be confined to."""
        return super().posterior(priors, sampling.over(LANGEVIN) if priors[0].sigmas else sampling)

    def operator(self, shape: Shape) -> Operator:
        from ..operators import Unobserved

        return Unobserved(shape)


def sample(
    prior: str | Prior | None = None,
    count: int = 16,
    *,
    model: str | DirectModel | None = None,
    label: int | None = None,
    weights: Path | None = None,
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """``count`` samples of the prior itself, ``(count, c, h, w)`` in [0, 1]; by default of ``ncsn-mnist``.

    Args:
        model: a direct model to sample instead; a name or a :class:`basis_cli.api.DirectModel`.
        label: which class of a :class:`basis_cli.api.Labelled` model; by default each in turn.

    Raises:
        BasisError: an option (``UsageError``), a name (``UnknownPriorError``), the weights (``WeightsError``) or the
            answer (``NotFiniteError``) cannot be used.
    """
    from ..compute import Compute
    from ..posterior import Direct, Sampling
    from ..samplers import unwatched

    sampling, compute = sampling or Sampling(), compute or Compute()
    posterior: Guided | Direct
    if model is None:
        posterior = Sample().posterior(loaded(Sample(), prior, weights, compute), sampling)
    else:
        network = loaded_model(Sample(), model, weights, compute)
        name = model if isinstance(model, str) else ""
        posterior = Direct(network, Sample().operator(network.shape), name, sampling)
    return samples(posterior, count, label, compute, watch or unwatched)


def samples(posterior: Guided | Direct, count: int, label: int | None, compute: Compute, watch: Watch) -> Tensor:
    """What :func:`sample` returns, of a posterior given nothing or classes."""
    import torch

    from ..posterior import drawn
    from ..samplers.noise import image_seed

    if count < 1:
        raise UsageError(f"the number of samples must be at least 1, not {count}")
    y = _labels(getattr(posterior, "model", None), count, label)
    seeds = [[image_seed(posterior.sampling.seed, index)] for index in range(count)]
    result = drawn(posterior, y, seeds, compute=compute, watch=watch)
    return torch.stack([one.x[0, 0] for one in result.ranked]).clamp(0, 1)


def _labels(model: object, count: int, label: int | None) -> Tensor:
    """What is given to ``model``: classes ``(count,)``, or nothing.

    Raises:
        UsageError: it has no class ``label``, or none at all.
    """
    import torch

    if not isinstance(model, Labelled):
        if label is not None:
            raise UsageError("only a model of classes takes a label", "--model cinn-mnist")
        return torch.zeros(count, 0)
    if label is not None and not 0 <= label < model.classes:
        raise UsageError(f"there is no class {label}", f"0 to {model.classes - 1}")
    return torch.arange(count) % model.classes if label is None else torch.full((count,), label)

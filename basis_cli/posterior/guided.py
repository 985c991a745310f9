"""``p(x | y)`` of an operator's unknown pictures, by a sampler that asks their priors."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import plugins
from ..api import Level, Prior
from ..compute import compile_networks
from ..errors import UsageError
from ..operators import Blurred, Constraint, Operator, Updating, fitted
from ..priors import contract
from ..priors.given import given, whole
from ..priors.wrapper import Wrapper
from ..samplers import Descent, Watch, begun_at, built_in, check_finite, descend, unwatched
from . import memory, ranking, spread
from .direct import Direct
from .resume import SavedState
from .settings import Sampling
from .surprise import surprise


class Guided:
    """The posterior of ``operator``'s pictures under ``priors``, one for each, drawn as ``sampling`` says.

    With ``start`` the sampler begins at what that draws, with noise of the first level, by :func:`refining` a middle
    one: amortized answers, then a few steps of the posterior.

    Raises:
        UsageError: not a prior for each picture; a setting that the sampler does not have.
        UnknownPriorError: no such sampler.
    """

    def __init__(self, priors: Sequence[Prior], operator: Operator, sampling: Sampling, start: Direct | None = None):
        if len(priors) != operator.k:
            raise UsageError(f"{len(priors)} priors for {operator.k} pictures", "one for each")
        self.priors, self.operator, self.sampling = list(priors), operator, sampling
        self.shape, self.start = priors[0].shape, start
        if start and tuple(start.shape) != tuple(self.shape):
            raise UsageError(f"the model answers pictures of {start.shape}, the prior models {self.shape}", "--prior")
        self.options = sampling.options(priors)
        self._draw = plugins.sampler(str(sampling.sampler))
        self._counter = torch.zeros((), dtype=torch.int64)

    @property
    def exact(self) -> bool:
        """Whether the observation is taken to have no noise, so that answers are made consistent with it."""
        return not self.sampling.noise_std

    @property
    def guided(self) -> bool:
        """Whether the sampler asks the priors; baselines do not."""
        return plugins.sampler_spec(str(self.sampling.sampler)).guided

    def about(self, x: Tensor, y: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :func:`.spread.about`; evaluations add to those of :meth:`sample`."""
        made = fitted(self.operator, x, y)
        return spread.about(self._counted(self.priors), made, x, y, seeds, self.sampling.noise_std or 0.0)  # type: ignore[arg-type]

    @property
    def kinds(self) -> list[Hashable]:
        """Components of equal kind may change places: the same prior and the same mixing coefficients."""
        own = self.operator.nominal.columns if isinstance(self.operator, Updating) else range(self.operator.k)
        return [(id(prior), each) for prior, each in zip(self.priors, own, strict=True)]

    def sample(
        self, y: Tensor, seeds: Sequence[int], *, watch: Watch = unwatched, saved: SavedState | None = None
    ) -> Tensor:
        """A sample ``(k, n, c, h, w)``, not clipped, for each of ``y`` ``(n, ...)``, each from its own seed alone.

        Raises:
            UsageError: the sampler cannot go on from ``saved``, or does not know the operator.
            NotFiniteError: a sample is NaN or infinite.
        """
        if (saved or self.start) and "descent" not in inspect.signature(self._draw).parameters:
            what, hint = ("resumed", "leave out --resume") if saved else ("begun elsewhere", "leave out --refine")
            raise UsageError(f"the sampler {self.sampling.sampler!r} cannot be {what}", hint)
        evaluated = self._counter = torch.zeros((), dtype=torch.int64, device=y.device)
        descent: dict[str, Descent] = {"descent": partial(saved.descent, evaluated)} if saved else {}
        if self.start:
            descent["descent"] = partial(begun_at, self.start.sample(y, seeds), descent.get("descent", descend))
        what = f"the sampler {self.sampling.sampler!r}"
        with contract.blamed(what) if self.sampling.sampler not in built_in() else nullcontext():
            asked = self._counted(self.priors)
            x = self._draw(asked, self.operator, y, seeds=seeds, watch=watch, **descent, **self.options)
        x = contract.checked(x, (self.operator.k, len(y), *self.shape), y.device, f"the answer of {what}")
        check_finite(x, 0.0)
        return x

    def evaluations(self, pictures: int) -> float:
        """Of the network, for each component of each of ``pictures``, since :meth:`sample` was called last."""
        return int(self._counter) / (self.operator.k * pictures)

    def _counted(self, priors: Sequence[Prior]) -> list[Prior]:
        distinct = {id(prior): _Counted(prior, self._counter) for prior in priors}
        return [distinct[id(prior)] for prior in priors]

    def _whole(self) -> list[Prior]:
        """The priors of whole pictures, which know how likely those are."""
        return self._counted([whole(prior) for prior in self.priors])

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """What samples ``(k, n, c, h, w)`` of :meth:`sample` are ranked by, ``(n,)`` in nats up to a constant."""
        return ranking.log_likelihood(self._whole(), x.clamp(0, 1))

    def log_prob(self, x: Tensor) -> Tensor | None:
        """Each component's own, ``(k, n)``, see :func:`basis_cli.posterior.ranking.component_log_prob`."""
        return ranking.component_log_prob(self._whole(), x) if self.guided else None

    def surprise(self, x: Tensor) -> Tensor | None:
        """How much worse each of several components is denoised than its prior expects, ``(k, n)``."""
        return surprise([whole(prior) for prior in self.priors], x) if self.guided and self.operator.k > 1 else None

    def batch_size(self, count: int, device: torch.device) -> int:
        """How many of ``count`` pictures to work on at once."""
        return memory.batch_size(self.priors, count, device)

    def compile(self) -> None:
        """``torch.compile`` the priors' networks."""
        compile_networks(self.priors)

    def described(self) -> dict[str, Any]:
        """Every setting, for a record."""
        operator = self.operator
        made: dict[str, Any] = {}
        if isinstance(operator, Updating):
            made = {"alpha": operator.nominal.alpha, "operator": str(operator)}
            made |= {"blur": operator.nominal.stds} if isinstance(operator.nominal, Blurred) else {}
        start = {"start": self.start.described()} if self.start else {}
        return self.sampling.described(self.priors) | made | start


def conditioned(
    priors: Sequence[Prior],
    operator: Operator,
    sampling: Sampling,
    defaults: Mapping[str, Any],
    conditional: Mapping[str, Any] | None = None,
) -> Guided:
    """The posterior by a task's ``defaults``; or, where the priors know what ``y`` says of the rest and ``y`` has no
    noise, by :func:`~basis_cli.samplers.conditional`, if it is chosen or the task has ``conditional`` defaults."""
    chosen = sampling.sampler == "conditional" or (sampling.sampler is None and conditional is not None)
    if chosen and not sampling.noise_std and (known := given(priors, operator)):
        highest = {"sigma_max": known[0].sigma_max} if known[0].sigma_max else {}
        own = {"sampler": "conditional", **highest, **(conditional or {})}
        return Guided(known, operator, sampling.over(own))
    if defaults.get("sampler") == "project" and not isinstance(operator, Constraint):
        defaults = {"sampler": "conjugate"}  # which needs the forward only
    return Guided(priors, operator, sampling.over(defaults))


MIDDLE, FEW = 0.4, 20
"""Noise level at which :func:`refining` begins, which leaves the colours of large things, and how many there are."""


def refining(sampling: Sampling, defaults: Mapping[str, Any]) -> Sampling:
    """``sampling`` over a task's ``defaults``, but from a middle noise level on."""
    middle = replace(sampling, sigma_max=sampling.sigma_max or MIDDLE, levels=sampling.levels or FEW)
    return middle.over(defaults)


class _Counted(Wrapper):
    """A prior that adds the pictures it evaluates to ``pictures``. A derivative through it counts as two more.

    The count is on the device: a replayed CUDA graph runs no Python.
    """

    def __init__(self, prior: Prior, pictures: Tensor):
        super().__init__(prior)
        self.pictures = pictures

    def scored(self, level: Level, x: Tensor, sigma: float) -> Tensor:
        self._add(len(x))
        score = contract.score(level, x)
        if score.requires_grad:
            score.register_hook(lambda _: self._add(2 * len(x)))
        return score

    def _add(self, pictures: int) -> None:
        self.pictures += pictures

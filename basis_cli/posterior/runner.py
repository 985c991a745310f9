"""The one loop that answers inputs: in batches that fit into memory, ranked, watched, resumable."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ..compute import Compute
from ..errors import BasisError, NotFiniteError, UsageError
from ..operators import consistent, estimated, fitted
from ..samplers import Progress, Watch, image_seed, unwatched
from . import memory, ordering, ranking, spread
from .base import Posterior, Result
from .blind import Blind
from .guided import Guided
from .resume import SavedState

Saved = Callable[[Sequence[int]], "SavedState | None"]
"""Where the state of a run on these inputs is kept, if it is."""


Part = TypeVar("Part")


def unsaved(inputs: Sequence[int]) -> SavedState | None:
    """Nowhere."""
    return None


def answers(
    posterior: Posterior,
    y: Tensor,
    seeds: Sequence[Sequence[int]],
    *,
    compute: Compute | None = None,
    select: str = "all",
    rank: bool = True,
    truth: Tensor | None = None,
    watch: Watch = unwatched,
    saved: Saved = unsaved,
    begun: Sequence[Sequence[int]] = (),
    go_on: bool = False,
    uncertainty: bool = False,
) -> Iterator[tuple[int, Result | NotFiniteError]]:
    """``(i, result)`` for each of ``y`` ``(n, ...)``, as soon as it is there.

    Args:
        seeds: one for each sample of each input. A sample depends on its seed, not on what runs beside it.
        select: what to keep of several samples, see :meth:`basis_cli.posterior.ranking.Ranked.select`.
        rank: whether several samples are put in the order of their likelihood, which costs evaluations.
        truth: ``(k, n, c, h, w)``, if known.
        watch: called after each step of the sampler, with the batch and whose pictures it holds.
        saved: where to keep the state of the inputs at work; given again, a killed run goes on. It is removed when they
            are done.
        begun: inputs that a killed run had at work together, which come first.
        go_on: give the error in place of a result for an input whose samples are not finite, instead of raising it.
        uncertainty: where the sampler is too sure of how several components divide ``y``, :attr:`Result.std` is that of
            samples drawn about its answers (:mod:`basis_cli.posterior.spread`).

    Raises:
        BasisError: not even one picture fits into memory, or ``torch.compile`` failed.
        UsageError: among others, a sampler that cannot go on from a saved state, or the state of another run.
        InputError, UnknownPriorError, NotFiniteError.
    """
    if select not in ranking.SELECT:
        raise UsageError(f"select {select!r} is not known", ", ".join(ranking.SELECT))
    run = _Run(posterior, y, seeds, compute or Compute(), rank, watch)
    run.timid = uncertainty and isinstance(posterior, Guided) and spread.needed(posterior)
    work = run.divided(begun)
    while work:
        inputs = work.popleft()
        state = saved(inputs)
        began = time.perf_counter()
        try:
            samples, scores = run.drawn(inputs, state, pending=work)
        except NotFiniteError as error:
            if not go_on:
                raise
            if len(inputs) > 1:  # a picture does not depend on those beside it: find out which it is
                work.extendleft([i] for i in reversed(inputs))
            else:
                yield inputs[0], error
        else:
            result = run.result(inputs, samples, scores, select, truth)
            result.seconds = time.perf_counter() - began
            for place, i in enumerate(inputs):
                yield i, result.of(place)
        if state:
            state.remove()


@dataclass(frozen=True)
class Drawn:
    """Samples as the sampler left them."""

    ranked: list[ranking.Ranked]
    """Of each input."""
    evaluations: float
    """As :attr:`Result.evaluations`."""
    seconds: float


def drawn(
    posterior: Posterior,
    y: Tensor,
    seeds: Sequence[Sequence[int]],
    *,
    compute: Compute | None = None,
    rank: bool = True,
    watch: Watch = unwatched,
) -> Drawn:
    """The samples of :func:`answers`, not made consistent and not put in order: what evaluations judge."""
    began = time.perf_counter()
    compute = compute or Compute()
    if compute.sharing and watch is unwatched and len(y) > 1:
        return compute.sharing.drawn(posterior, y, seeds, replace(compute, sharing=None), rank)
    run = _Run(posterior, y, seeds, compute, rank, watch)
    work, found = run.divided(()), []
    while work:
        inputs = work.popleft()
        found += run.ranked(inputs, *run.drawn(inputs, None, pending=work))
    return Drawn(found, run.evaluations, time.perf_counter() - began)


class _Run:
    """A posterior at work: :meth:`drawn` samples inputs a batch at a time, :meth:`result` makes answers of them."""

    def __init__(
        self,
        posterior: Posterior,
        y: Tensor,
        seeds: Sequence[Sequence[int]],
        compute: Compute,
        rank: bool,
        watch: Watch,
    ):
        self.posterior, self.y, self.seeds, self.compute, self.watch = posterior, y, seeds, compute, watch
        self.samples = len(seeds[0])
        self.rank = rank and self.samples > 1
        self.evaluations, self.batch, self.timid = 0.0, 0, False
        if compute.compile:
            posterior.compile()
        with compute.inference():
            self.size = compute.batch or posterior.batch_size(len(y) * self.samples, compute.place)

    def divided(self, begun: Sequence[Sequence[int]]) -> deque[Sequence[int]]:
        """All inputs, as many together as a batch holds; first those that were ``begun`` together."""
        done = {i for inputs in begun for i in inputs}
        rest = [i for i in range(len(self.y)) if i not in done]
        together = -(-len(rest) // max(1, -(-len(rest) // max(1, self.size // self.samples)))) or 1
        return deque([*begun, *(rest[first : first + together] for first in range(0, len(rest), together))])

    def drawn(
        self, inputs: Sequence[int], state: SavedState | None, pending: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor | None]:
        """Samples ``(k, n * samples, c, h, w)`` of these inputs, those of an input together, and their likelihoods."""
        y = self.y[list(inputs)].repeat_interleave(self.samples, dim=0)
        seeds = [seed for i in inputs for seed in self.seeds[i]]
        whose = tuple((i, sample) for i in inputs for sample in range(self.samples))
        parts: list[Tensor] = []
        scores: list[Tensor] = []
        size = self.size
        if state:
            settings = self.posterior.described() | self.compute.asked() | {"seeds": seeds, "likelihood": self.rank}
            size = state.begin(settings, self.posterior.operator, y, self.posterior.shape) or size
            parts, scores = state.parts, state.likelihoods
            self.batch += len(parts)
        done = sum(part.shape[1] for part in parts)
        later = sum(-(-len(each) * self.samples // self.size) for each in pending)

        def draw(chosen: slice) -> tuple[Tensor, Tensor | None]:
            batches = self.batch + -(-(len(y) - chosen.start) // (chosen.stop - chosen.start)) + later
            return self._batch(y[chosen], seeds[chosen], whose[chosen], batches, state)

        for x, score in self._in_parts(len(y), draw, done, size):
            parts.append(x)
            scores += [] if score is None else [score]
            self.batch += 1
        return torch.cat(parts, dim=1), torch.cat(scores) if self.rank else None

    def _batch(
        self,
        y: Tensor,
        seeds: Sequence[int],
        whose: tuple[tuple[int, int], ...],
        batches: int,
        state: SavedState | None,
    ) -> tuple[Tensor, Tensor | None]:
        posterior, y = self.posterior, y.to(self.compute.place)

        def watch(progress: Progress) -> None:
            def residual() -> float:
                if not y.numel() or not y.is_floating_point():  # nothing was measured; a class is none of pixels
                    return 0.0
                return float(ordering.residual(fitted(posterior.operator, progress.x, y)(progress.x), y).mean())

            self.watch(replace(progress, batch=self.batch, batches=batches, chosen=whose, residual=residual))

        with self.compute.inference():
            x = posterior.sample(y, seeds, watch=watch, saved=state)
            scores = posterior.log_likelihood(x, y).cpu() if self.rank else None
        self.evaluations = posterior.evaluations(len(y)) * self.samples
        return x.cpu(), scores

    def ranked(self, inputs: Sequence[int], x: Tensor, scores: Tensor | None) -> list[ranking.Ranked]:
        """Each input's samples, most probable first."""
        shape = len(inputs), self.samples
        likelihoods = torch.zeros(shape) if scores is None else scores.view(shape)
        each = zip(x.unflatten(1, shape).unbind(1), likelihoods, strict=True)
        return [ranking.rank(one, score, self.posterior.kinds) for one, score in each]

    def result(
        self, inputs: Sequence[int], x: Tensor, scores: Tensor | None, select: str, truth: Tensor | None
    ) -> Result:
        """Chosen, consistent with what was observed, and in order."""
        posterior, samples = self.posterior, self.samples
        operator, kinds = posterior.operator, posterior.kinds
        y, truth = self.y[list(inputs)], None if truth is None else truth[:, list(inputs)]
        ranked = self.ranked(inputs, x, scores)
        x = torch.stack([one.select(select) for one in ranked], dim=1)  # (k, n, m, c, h, w)
        m = x.shape[2]
        repeated = y.repeat_interleave(m, dim=0)
        x = corrected(posterior, x.flatten(1, 2), repeated)
        std = torch.stack([one.std for one in ranked], dim=1) if samples > 1 else None
        weights = [spread.modes(one, posterior.priors) for one in ranked] if self.timid else []  # type: ignore[attr-defined]
        draws = self._draws(inputs, ranked, weights) if self.timid else None
        std = std if draws is None else spread.deviation(draws, x.unflatten(1, (len(y), m))[:, :, 0])
        if operator.k > 1:
            order = ordering.component_order(x[:, ::m], kinds, references=truth, mixture=y[:, : x.shape[2]])
            x = ordering.reordered(x, order.repeat_interleave(m, dim=1))
            std = None if std is None else ordering.reordered(std, order)
            draws = (
                None if draws is None else torch.stack([ordering.reordered(d, order) for d in draws.unbind(2)], dim=2)
            )
        made = fitted(operator, x, repeated)
        alpha = estimated(made)
        log_prob = posterior.log_prob(x.to(self.compute.place))
        doubt = self._surprise(x)
        psnr = None if truth is None else ordering.psnr(x, truth.repeat_interleave(m, dim=1))
        return Result(
            components=x.unflatten(1, (len(y), m)),
            y=y,
            residual=ordering.residual(made(x), repeated).view(len(y), m),
            alpha=None if alpha is None else alpha.unflatten(1, (len(y), m)),
            alpha_spread=self._spread(inputs, ranked) if alpha is not None else None,
            psnr=None if psnr is None else psnr.unflatten(1, (len(y), m)),
            seconds=0.0,
            evaluations=self.evaluations,
            log_likelihood=None if scores is None else torch.stack([one.log_likelihood for one in ranked]),
            log_prob=None if log_prob is None else log_prob.cpu().view(operator.k, len(y), m),
            surprise=None if doubt is None else doubt.view(operator.k, len(y), m),
            std=std,
            draws=draws,
            weights=weights,
            ranked=ranked,
            seeds=[list(self.seeds[i]) for i in inputs],
            settings=self.compute.described() | posterior.described() | {"samples": samples, "select": select},
        )

    def _draws(
        self, inputs: Sequence[int], ranked: Sequence[ranking.Ranked], weights: Sequence[Sequence[float]]
    ) -> Tensor:
        """:attr:`Result.draws`, ``(k, n, r, c, h, w)``, as many at once as memory holds."""
        assert isinstance(self.posterior, Guided)
        x = torch.stack(
            [spread.starts(*each) for each in zip(ranked, weights, strict=True)], dim=1
        )  # (k, n, r, c, h, w)
        whole, count = x.flatten(1, 2), x.shape[2]
        y = self.y[list(inputs)].repeat_interleave(count, dim=0)
        seeds = [image_seed(self.seeds[i][0], draw + 1) for i in inputs for draw in range(count)]
        y = spread.unrounded(self.posterior.operator, y, seeds) if self.posterior.exact else y
        before, about = self.posterior.evaluations(1), self.posterior.about

        def draw(chosen: slice) -> Tensor:
            with self.compute.inference():
                place = self.compute.place
                return about(whole[:, chosen].to(place), y[chosen].to(place), seeds[chosen]).cpu()

        parts = list(self._in_parts(len(y), draw))
        self.evaluations += (self.posterior.evaluations(1) - before) / len(inputs)
        drawn = corrected(self.posterior, torch.cat(parts, dim=1), y)
        order = ordering.component_order(drawn, self.posterior.kinds, references=whole, mixture=y[:, : x.shape[3]])
        return ordering.reordered(drawn, order).unflatten(1, x.shape[1:3])

    def _surprise(self, x: Tensor) -> Tensor | None:
        """See :meth:`~.guided.Guided.surprise`, ``(k, n)``, of as many pictures at once as memory holds."""
        if not isinstance(self.posterior, Guided):
            return None
        surprise = self.posterior.surprise
        found = self._in_parts(x.shape[1], lambda chosen: surprise(x[:, chosen].to(self.compute.place)))
        parts = [part.cpu() for part in found if part is not None]
        return torch.cat(parts, dim=1) if parts else None

    def _in_parts(
        self, count: int, work: Callable[[slice], Part], done: int = 0, size: int | None = None
    ) -> Iterator[Part]:
        """What ``work`` makes of ``count`` pictures but the first, which are ``done``: as many at once as memory holds.

        Raises:
            BasisError: not even one fits, or ``torch.compile`` failed.
        """
        size = size or self.size
        while done < count:
            size = min(size, count - done)
            try:
                part = work(slice(done, done + size))
            except (RuntimeError, MemoryError) as error:
                if self.compute.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    reason = str(error).strip().partition("\n")[0]
                    raise BasisError(f"torch.compile failed: {reason}", "leave out --compile") from error
                self.size = size = memory.halved(size, error)
            else:
                yield part
                done += size

    def _spread(self, inputs: Sequence[int], ranked: Sequence[ranking.Ranked]) -> Tensor | None:
        """See :attr:`Result.alpha_spread`."""
        if not isinstance(self.posterior, Blind):
            return None
        drawn = [[self.seeds[i][j] for j in one.drawn] for i, one in zip(inputs, ranked, strict=True)]
        return torch.stack([self.posterior.spread(seeds) for seeds in drawn])


def corrected(posterior: Posterior, x: Tensor, y: Tensor) -> Tensor:
    """The pictures ``x`` ``(k, n, c, h, w)`` within [0, 1] and, unless ``y`` is noisy, consistent with it."""
    return consistent(x, fitted(posterior.operator, x, y), y) if posterior.exact else x.clamp(0, 1)

"""What gives answers to what was observed, and the answers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from ..operators import Operator
from ..samplers import Watch, unwatched
from .ranking import Ranked
from .resume import SavedState


class Posterior(Protocol):
    """``p(x | y)``: :class:`~basis_cli.posterior.Guided`, :class:`~basis_cli.posterior.Direct`, or your own.

    :class:`~basis_cli.posterior.Guided` says what each member is.
    """

    operator: Operator
    shape: tuple[int, int, int]

    @property
    def exact(self) -> bool: ...

    @property
    def kinds(self) -> list[Hashable]: ...

    def sample(
        self, y: Tensor, seeds: Sequence[int], *, watch: Watch = unwatched, saved: SavedState | None = None
    ) -> Tensor: ...

    def evaluations(self, pictures: int) -> float: ...

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor | None: ...

    def batch_size(self, count: int, device: torch.device) -> int: ...

    def compile(self) -> None: ...

    def described(self) -> dict[str, Any]: ...


@dataclass
class Result:
    """The answers for ``n`` inputs. Tensors are float32 on the CPU in [0, 1]."""

    components: Tensor
    """``(k, n, m, c, h, w)``, ordered; ``m`` is 1, or all samples if asked for, most probable first."""
    y: Tensor
    """What was observed, ``(n, c, h, w)``."""
    residual: Tensor
    """Root mean square of ``A x - y`` in 8-bit levels, ``(n, m)``."""
    psnr: Tensor | None
    """dB to the references, ``(k, n, m)``; ``None`` without references."""
    seconds: float
    evaluations: float
    """Network evaluations for each component of each input, all samples and their likelihoods together."""
    log_likelihood: Tensor | None = None
    """Nats, up to a constant, ``(n, samples)``, most probable first; ``None`` for a single sample."""
    log_prob: Tensor | None = None
    """Nats, of each component under its own prior, ``(k, n, m)``, see
    :func:`basis_cli.posterior.ranking.component_log_prob`; ``None`` for priors without a likelihood, and baselines."""
    alpha: Tensor | None = None
    """Mixing coefficients as they were estimated, ``(k, n, m)``; ``None`` where they were given."""
    alpha_spread: Tensor | None = None
    """How far the last chain moved them, ``(n, samples)``: what they are sure to."""
    surprise: Tensor | None = None
    """How much worse each component is denoised than its prior expects, ``(k, n, m)``, 0 being as expected
    (:func:`basis_cli.posterior.surprise.surprise`); ``None`` of one component, and of baselines."""
    std: Tensor | None = None
    """Standard deviation of each pixel, ``(k, n, c, h, w)``: over the samples; or, if that was asked for, root mean
    square of ``draws`` about the first answer. ``None`` for a single sample otherwise."""
    draws: Tensor | None = None
    """Samples of the posterior about the answers of a sampler that is too sure of itself, ``(k, n, r, c, h, w)``
    (:mod:`basis_cli.posterior.spread`); ``None`` unless asked for."""
    weights: list[list[float]] = field(default_factory=list)
    """For each input, with ``draws``, how probable each of its distinct answers is; sums to 1."""
    ranked: list[Ranked] = field(default_factory=list)
    """For each input its samples as the sampler left them, most probable first."""
    seeds: list[list[int]] = field(default_factory=list)
    """Of the noise of each input's samples, in the order drawn."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> list[list[int]]:
        """For each input, how many samples give the same answer as the most probable one, and as each other."""
        return [torch.tensor(one.answer).bincount().tolist() for one in self.ranked]

    @property
    def drawn(self) -> list[list[int]]:
        """For each input, which of its samples, in the order drawn, is the most probable, the second most, ..."""
        return [one.drawn for one in self.ranked]

    def of(self, i: int) -> Result:
        """That of input ``i`` alone."""
        axes = {name: getattr(self, name) for name in AXES}
        parts = {name: None if t is None else t.narrow(AXES[name], i, 1) for name, t in axes.items()}
        seconds = self.seconds / len(self.y)
        return Result(
            **parts,  # type: ignore[arg-type]
            weights=self.weights[i : i + 1],
            ranked=[self.ranked[i]],
            seeds=[self.seeds[i]],
            seconds=seconds,
            evaluations=self.evaluations,
            settings=self.settings,
        )

    @classmethod
    def joined(cls, results: Sequence[Result]) -> Result:
        """One for all inputs of ``results``, which were asked for in the same way."""
        parts = {name: [getattr(result, name) for result in results] for name in AXES}
        whole = {name: None if of[0] is None else torch.cat(of, dim=AXES[name]) for name, of in parts.items()}
        return cls(
            **whole,  # type: ignore[arg-type]
            weights=[one for result in results for one in result.weights],
            ranked=[one for result in results for one in result.ranked],
            seeds=[seeds for result in results for seeds in result.seeds],
            seconds=sum(result.seconds for result in results),
            evaluations=results[-1].evaluations,
            settings=results[0].settings,
        )


AXES = {
    "components": 1,
    "y": 0,
    "residual": 0,
    "psnr": 1,
    "log_likelihood": 0,
    "log_prob": 1,
    "alpha": 1,
    "alpha_spread": 0,
}
AXES |= {"surprise": 1, "std": 1, "draws": 1}
"""Which axis of each of a :class:`Result`'s tensors is that of the inputs."""
assert set(AXES) < {f.name for f in fields(Result)}

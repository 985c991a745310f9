"""How to sample, and a sampler's run over many pictures: in batches that fit, counted, watched, resumable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import plugins, samplers
from ..api import Level, Prior
from ..compute import choose_device, compile_networks, precision
from ..errors import BasisError, UsageError
from ..operators import Operator
from ..posterior import memory, ordering, ranking
from ..posterior.resume import SavedState


@dataclass(frozen=True)
class Sampling:
    """How to sample; the same for every task. ``None`` leaves the sampler's own default."""

    sampler: str | None = None
    """See docs/samplers.md. Default: the one in :data:`DEFAULTS`."""
    levels: int | None = None
    """Noise levels on the sampler's kind of ladder. Default: for Langevin dynamics the prior's own, else the paper's
    ten; for ``ep`` 25, for the others 50; to undo JPEG 25. A pyramid adds some above them for its coarser scales."""
    sigma_max: float | None = None
    """Highest noise level. Default: 1; for ``ep`` 1.3; for a pyramid twice as high for every halving; to undo JPEG 0.2,
    since the decoded file tells that much."""
    sigma_min: float | None = None
    """Lowest noise level. Default: for Langevin dynamics and JPEG 0.01, else 0.03."""
    steps: int | None = None
    """Steps a level (the paper's T = 100)."""
    step_size: float | None = None
    """The paper's delta = 2e-5."""
    temperature: float | None = None
    """What Langevin dynamics multiplies the variance of its noise with. Default: 1, the posterior's."""
    noise_std: float | None = None
    """Standard deviation of white noise in the observation, in intensities. Default: none."""
    overrelaxation: float | None = None
    """How much of the old noise comes back turned round at the next level, 0 to 1: likelier answers that differ less.
    Default: 0.9 for ``ep``, else 0."""
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    """``float32``, ``bfloat16`` (networks only; samples stay float32) or ``auto``: bfloat16 on CUDA."""
    batch: int | None = None
    """Pictures (mixtures times samples) worked on at once; ``None``: as many as are fast and fit into memory. A picture
    does not depend on it."""
    compile: bool = False
    """``torch.compile`` the priors' networks: slow to begin, then faster; the same pictures up to rounding."""

    def for_task(self, task: str) -> Sampling:
        """The same, with what :data:`DEFAULTS` says of the ``task`` unless a sampler was chosen."""
        if self.sampler:
            return self
        default = DEFAULTS.get(task, DEFAULTS["restore"])
        if self.noise_std and default["sampler"] == "project":  # which believes every measurement
            default = {"sampler": "conjugate"}
        return replace(self, **{name: value for name, value in default.items() if getattr(self, name) is None})

    def options(self, priors: Sequence[Prior]) -> dict[str, Any]:
        """Keyword arguments for the sampler.

        Raises:
            UsageError: a value out of range, or an option that this sampler does not have.
        """
        if self.sampler is None:
            raise UsageError("no sampler was chosen")
        for name in ("levels", "sigma_max", "sigma_min", "steps", "step_size", "temperature", "noise_std", "batch"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be greater than 0, not {value}")
        ladder = samplers.LADDERS.get(self.sampler, samplers.geometric)
        draw = plugins.sampler(self.sampler)
        fixed = getattr(draw, "keywords", {})  # of a sampler that is another one with something settled
        takes = {name: p for name, p in inspect.signature(draw).parameters.items() if name not in fixed}
        given: dict[str, Any] = {}
        own = next((p.sigmas for p in priors if p.sigmas is not None), None) if ladder is samplers.geometric else None
        given_ends = {"high": self.sigma_max, "low": self.sigma_min}
        ends = {name: sigma for name, sigma in given_ends.items() if sigma is not None}
        if self.levels is not None or ends:
            if "sigmas" not in takes:
                raise UsageError(f"the sampler {self.sampler!r} has no noise levels")
            given["sigmas"] = ladder(self.levels or len(own or takes["sigmas"].default), **ends)
            if given["sigmas"][0] < given["sigmas"][-1]:
                raise UsageError("the highest noise level is below the lowest", "--sigma-max, --sigma-min")
        elif own and "sigmas" in takes:
            given["sigmas"] = own
        halvings = samplers.halvings(priors)
        if halvings and self.sigma_max is None and "sigmas" in takes:
            given["sigmas"] = samplers.from_coarse(given.get("sigmas", takes["sigmas"].default), halvings)
        for name in ("steps", "step_size", "temperature", "noise_std", "overrelaxation"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        for name in sorted(set(given) - set(takes)):
            raise UsageError(f"the sampler {self.sampler!r} has no option {name!r}")
        return given

    def sigmas(self, priors: Sequence[Prior]) -> tuple[float, ...]:
        """The noise levels, high to low; of a sampler that has none, the paper's."""
        takes = inspect.signature(plugins.sampler(str(self.sampler))).parameters
        default = takes["sigmas"].default if "sigmas" in takes else samplers.PAPER_SIGMAS
        return tuple(self.options(priors).get("sigmas", default))

    def described(self, priors: Sequence[Prior]) -> dict[str, Any]:
        """Everything that was set, for a record."""
        return asdict(self) | self.options(priors)


DEFAULTS: dict[str, dict[str, Any]] = {
    "separate": {"sampler": "ep"},
    "sample": {"sampler": "langevin"},
    "restore": {"sampler": "project"},
    "decompress": {"sampler": "project", "levels": 25, "sigma_max": 0.2, "sigma_min": 0.01},
}
"""What each task samples with; ``restore`` stands for those that are not named. With ``noise_std``, ``conjugate`` takes
the place of ``project``."""


def image_seed(seed: int, *index: int) -> int:
    """The seed of sample (or evaluation pair) ``index``: a 63-bit hash, so that neighbouring seeds share nothing."""
    return int(np.random.SeedSequence((seed, *index)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Counted:
    """A prior that adds the pictures it evaluates to ``pictures``. A derivative through it counts as two more.

    The count is on the device: a replayed CUDA graph runs no Python.
    """

    def __init__(self, prior: Prior, pictures: Tensor):
        self.prior, self.shape, self.sigmas, self.pictures = prior, prior.shape, prior.sigmas, pictures
        self.halvings = samplers.halvings([prior])

    def at(self, sigma: float) -> Level:
        return _CountedLevel(self, self.prior.at(sigma))


class _CountedLevel:
    def __init__(self, counted: _Counted, level: Level):
        self.counted, self.level = counted, level
        if hasattr(level, "log_prob"):
            self.log_prob = level.log_prob

    def score(self, x: Tensor) -> Tensor:
        self._add(len(x))
        score = self.level.score(x)
        if score.requires_grad:
            score.register_hook(lambda _: self._add(2 * len(x)))
        return score

    def _add(self, pictures: int) -> None:
        self.counted.pictures += pictures


class Frames:
    """A callback that keeps the state at the end of each noise level (Figure 9) and calls ``then``.

    A sampler that denoises is kept as its estimates of the clean pictures, Langevin dynamics as the noisy pictures.
    """

    def __init__(self, then: Callable[..., None] = samplers.no_callback):
        self._then = then
        self._states: dict[int, dict[int, Tensor]] = {}

    def __call__(self, *, step: int, total: int, level: int, x: Tensor, first: int = 0, **state: Any) -> None:
        if (step + 1) % max(1, total // state.get("levels", total)) == 0:
            kept = self._states.setdefault(level, {})
            kept |= {first + i: picture for i, picture in enumerate(x.detach().cpu().clone().unbind(1))}
        self._then(step=step, total=total, level=level, x=x, first=first, **state)

    def of(self, index: int, like: Tensor | None = None) -> Tensor:
        """The states ``(levels, k, c, h, w)`` of picture ``index`` (the samples of one input follow each other).

        With ``like`` ``(k, c, h, w)`` the components are in the order that brings the last state nearest to it.
        """
        states = torch.stack([self._states[level][index] for level in sorted(self._states)]).float()
        if like is None:
            return states
        closeness = -(like[:, None] - states[-1][None]).square().flatten(2).sum(2)
        return states[:, ordering.assignment(closeness, [0] * len(like))]


def sample_posterior(
    priors: Sequence[Prior],
    operator: Operator,
    y: Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    callback: Callable[..., None] = samplers.no_callback,
    likelihood: bool = False,
    saved: SavedState | None = None,
) -> tuple[Tensor, Tensor | None, float]:
    """Run the sampler on ``y`` ``(n, ...)`` in batches.

    The callback gets what the sampler gives it, and ``batch``, ``batches``, ``first`` (the index of its first picture),
    ``operator``, ``y`` of the batch at work.
    A batch that does not fit into memory is begun again with half as many pictures; what was done is kept.
    With ``saved`` the run's state is kept in a file, and a run that was killed goes on from it.

    Returns:
        Samples ``(k, n, c, h, w)``, their log-likelihoods ``(n,)`` if asked for, and network evaluations for each
        component.

    Raises:
        BasisError: not even one picture fits, or ``torch.compile`` failed.
        UsageError: among others, a sampler that cannot go on from a saved state, or the state of another run.
        InputError, UnknownPriorError, NotFiniteError.
    """
    device = choose_device(sampling.device)
    options = sampling.options(priors)
    draw = plugins.sampler(str(sampling.sampler))
    if saved and "descent" not in inspect.signature(draw).parameters:
        raise UsageError(f"the sampler {sampling.sampler!r} cannot be resumed", "leave out --resume")
    if sampling.compile:
        compile_networks(priors)

    def run(chosen: slice, **where: int) -> tuple[Tensor, Tensor | None, float]:
        part = y[chosen].to(device)
        with torch.inference_mode(False):  # samplers that differentiate the score count as well
            evaluated = torch.zeros((), dtype=torch.int64, device=device)
        distinct = {id(prior): _Counted(prior, evaluated) for prior in priors}
        counted = [distinct[id(prior)] for prior in priors]
        resumable = {"descent": partial(saved.descent, evaluated)} if saved else {}
        x = draw(
            counted,
            operator,
            part,
            seeds=seeds[chosen],
            callback=partial(callback, operator=operator, y=part, **where),
            **resumable,
            **options,
        )
        samplers.check_finite(x, 0.0)
        scores = ranking.log_likelihood(counted, x.clamp(0, 1)).cpu() if likelihood else None
        return x.cpu(), scores, int(evaluated) / (operator.k * len(part))

    parts: list[Tensor] = []
    likelihoods: list[Tensor] = []
    evaluations = 0.0
    with torch.inference_mode(), precision(device, sampling.dtype):
        size = sampling.batch or memory.batch_size(priors, len(y), device)
        if saved:
            settings = sampling.described(priors) | {"seeds": list(seeds), "likelihood": likelihood}
            size = saved.begin(settings, operator, y, priors[0].shape) or size
            parts, likelihoods = saved.parts, saved.likelihoods
        done = sum(part.shape[1] for part in parts)
        while done < len(y):
            size = min(size, len(y) - done)
            batches = len(parts) + -(-(len(y) - done) // size)
            try:
                x, scores, evaluations = run(slice(done, done + size), batch=len(parts), batches=batches, first=done)
            except (RuntimeError, MemoryError) as error:
                if sampling.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    reason = str(error).strip().partition("\n")[0]
                    raise BasisError(f"torch.compile failed: {reason}", "leave out --compile") from error
                size = memory.halved(size, error)
            else:
                parts.append(x)
                likelihoods += [] if scores is None else [scores]
                done += size
    return torch.cat(parts, dim=1), torch.cat(likelihoods) if likelihood else None, evaluations

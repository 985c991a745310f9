"""Benchmarks: what a separation costs here, beside what the paper's algorithm costs on the same machine."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__, plugins, tasks
from ..api import Level, Prior
from ..compute import Compute, Sharing
from ..data.datasets import Dataset
from ..errors import NotFiniteError, RunWarning, UsageError
from ..posterior import Result, Sampling, drawn, ranking
from ..priors.wrapper import WrappedLevel, Wrapper
from ..samplers import Progress
from ..samplers.noise import picture_seeds
from ..tasks.separation import Separate
from .protocols import average, evaluate_separation

PAPER = Sampling("langevin", levels=10, steps=100)
FEW = 2
"""Levels, and steps a level, of Algorithm 1 that are timed on a CPU: all its steps do the same work."""


def speed(
    prior: Prior,
    paper_prior: Prior,
    sampling: Sampling,
    *,
    compute: Compute | None = None,
    k: int = 2,
    count: int = 16,
    rounds: int = 5,
    full: bool = False,
    scaling: bool = False,
    callback: Callable[[str], None] = lambda doing: None,
) -> dict[str, Any]:
    """Time ``sampling`` with ``prior`` against Algorithm 1 with ``paper_prior``, in turn, on one device.

    The mixtures are random pictures: what is in them costs nothing. Everything runs briefly before it is timed. A
    round times both, so what else the machine does is the same for both, and its ratios are of one pair.

    Args:
        count: separations at once, beside a single one.
        rounds: how often both are timed.
        full: run all 1,000 steps of Algorithm 1 on a CPU, too. On CUDA it always does: there a level's steps share the
            cost of recording them (:mod:`basis_cli.samplers.graphs`), so a few of them say little.
        scaling: also time ours with other numbers of mixtures, components and levels.
        callback: told what is being timed.

    Returns:
        ``ratios`` (above 1: in favour of ours), each the :func:`~.protocols.average` over the rounds, ``ours`` and
        ``paper`` (means of what :func:`_cost` says of a round), ``rounds`` themselves, with ``scaling`` rows for
        ``batch``, ``k`` and ``levels``, and what they were measured with.

    Raises:
        UsageError: the priors model pictures of different shapes.
    """
    if tuple(prior.shape) != tuple(paper_prior.shape):
        raise UsageError(
            f"{tuple(prior.shape)} against {tuple(paper_prior.shape)}: not the same pictures", "--baseline"
        )
    compute, sampling = compute or Compute(), sampling.over(Separate.defaults)
    device = compute.place
    paper, scale = replace(PAPER, seed=sampling.seed), 1
    if not full and device.type != "cuda":
        paper, scale = replace(paper, levels=FEW, steps=FEW), (10 * 100) // (FEW * FEW)
    sides = {
        "ours": (prior, sampling, compute, k, count, 1),
        "paper": (paper_prior, paper, replace(compute, compile=False), k, count, scale),
    }
    for each, how, where, *_ in sides.values():
        for n in (1, count):
            _Run(each, _brief(how, 1), where, k, n)
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        found.append({})
        for name, side in sides.items():
            callback(f"{name}, round {number + 1} of {rounds}")
            found[-1][name] = _cost(*side)
    rows = [_ratios(each["ours"], each["paper"]) for each in found]
    made = {
        "basis": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "k": k,
        "count": count,
        "ratios": {name: average(np.array([row[name] for row in rows])) for name in rows[0]},
        "ours": _means([each["ours"] for each in found]),
        "paper": _means([each["paper"] for each in found]),
        "rounds": found,
    }
    if scaling:
        callback("scaling")
        made["scaling"] = _scaling(prior, sampling, compute, k)
    return made


def _scaling(prior: Prior, sampling: Sampling, compute: Compute, k: int) -> dict[str, list[dict[str, float]]]:
    return {
        "batch": [_row(prior, sampling, compute, k, n, 5) for n in (1, 8, 32, 128)],
        "k": [_row(prior, sampling, compute, several, 16, 5) for several in (2, 3, 4)],
        "levels": [_row(prior, sampling, compute, k, 8, levels) for levels in (5, 10, 20, 40)],
    }


def _ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """How many times as much the others cost."""
    less = ["seconds_many", "seconds_one", "evaluations", *(["peak_bytes"] if ours["peak_bytes"] else [])]
    return {name: theirs[name] / ours[name] for name in less} | {
        "evaluations_a_second": ours["evaluations_a_second"] / theirs["evaluations_a_second"],
    }


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of what was measured; what is the same in all ``rows`` as it is."""
    measured = ("seconds_one", "seconds_many", "evaluations_a_second", "outside_network")
    return rows[0] | {name: sum(row[name] for row in rows) / len(rows) for name in measured}


def _cost(prior: Prior, sampling: Sampling, compute: Compute, k: int, count: int, scale: int = 1) -> dict[str, Any]:
    """What separations cost with ``scale`` times the steps that ``sampling`` has.

    Returns:
        ``seconds_one`` and ``seconds_many`` (1 and ``count`` separations), ``evaluations`` (of a component),
        ``evaluations_a_second`` (of one picture, while ``count`` are separated), ``peak_bytes`` (of the device, or of
        this process on a CPU; ``None`` where the system does not tell), ``outside_network`` (share of the time),
        ``steps``, ``timed_steps`` and ``settings``.
    """
    device = compute.place
    one = _Run(prior, sampling, compute, k, 1)
    has_peak = _forget_peak(device)
    clock = _Clock(prior, device)
    many = _Run(clock if device.type == "cpu" else prior, sampling, compute, k, count)
    peak = _peak(device) if has_peak else None
    clocked = many if device.type == "cpu" else _Run(clock, _brief(sampling, sampling.levels), compute, k, count)
    return {
        "seconds_one": one.seconds(scale),
        "seconds_many": many.seconds(scale),
        "evaluations": many.result.evaluations * scale,
        "evaluations_a_second": k * count * many.result.evaluations * scale / many.seconds(scale),
        "peak_bytes": peak,
        "outside_network": 1 - clock.seconds / clocked.result.seconds,
        "steps": many.steps * scale,
        "timed_steps": many.steps,
        "settings": many.result.settings,
    }


def _row(prior: Prior, sampling: Sampling, compute: Compute, k: int, count: int, levels: int) -> dict[str, float]:
    """The better of two brief runs: the first of a shape pays for what libraries prepare."""
    runs = [_Run(prior, _brief(sampling, levels), compute, k, count) for _ in range(2)]
    run = min(runs, key=lambda run: run.result.seconds)
    seconds, evaluations = run.result.seconds, run.result.evaluations
    return {
        "batch": count,
        "k": k,
        "levels": levels,
        "seconds": seconds,
        "evaluations_a_second": k * count * evaluations / seconds,
    }


def _brief(sampling: Sampling, levels: int | None) -> Sampling:
    """The same with ``levels`` noise levels, and few steps at each where the sampler has steps."""
    stepped = plugins.sampler_spec(str(sampling.sampler)).steps
    return replace(sampling, levels=levels, steps=FEW if stepped else None)


class _Run:
    """``count`` separations, with a note of when each step ended."""

    def __init__(self, prior: Prior, sampling: Sampling, compute: Compute, k: int, count: int):
        self.ends: list[float] = []
        self.steps = 0
        mixtures = torch.rand(count, *prior.shape, generator=torch.Generator().manual_seed(0))
        self.result: Result = tasks.separate(
            mixtures, k=k, prior=prior, sampling=sampling, compute=compute, watch=self._note
        )

    def _note(self, progress: Progress) -> None:
        self.ends.append(time.perf_counter())
        self.steps = progress.total

    def seconds(self, scale: int) -> float:
        """Of the same run with ``scale`` times the steps: those that are missing take what those that ran took."""
        each = (self.ends[-1] - self.ends[0]) / max(len(self.ends) - 1, 1)
        return self.result.seconds + (scale - 1) * len(self.ends) * each


class _Clock(Wrapper):
    """A prior that adds up the seconds in its scores. On a GPU it waits for the device around each: that costs time."""

    def __init__(self, prior: Prior, device: torch.device):
        super().__init__(prior)
        self.device, self.seconds = device, 0.0

    def at(self, sigma: float) -> Level:
        """Without a likelihood, which would be computed outside the clock."""
        return WrappedLevel(self, self.prior.at(sigma), sigma)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def scored(self, level: Level, x: Tensor, sigma: float) -> Tensor:
        began = self.now()
        score = level.score(x)
        self.seconds += self.now() - began
        return score


def throughput(
    prior: Prior, sampling: Sampling, sharing: Sharing, *, compute: Compute | None = None, k: int = 2, count: int = 64
) -> dict[str, Any]:
    """Time ``count`` separations in this process with all its threads, and then shared, of random mixtures.

    Both run briefly before: priors are loaded, processes started.

    Returns:
        ``alone`` and ``shared``, seconds; ``ratio``, of both; ``same``: whether all samples are, to the last bit.
    """
    compute, sampling = compute or Compute(), sampling.over(Separate.defaults)
    posterior = Separate(k).posterior([prior] * k, sampling)
    y = torch.rand(count, *prior.shape, generator=torch.Generator().manual_seed(0))
    seeds = picture_seeds(sampling.seed, y, 1)
    found = {}
    for name, where in (("alone", compute), ("shared", replace(compute, sharing=sharing))):
        brief = Separate(k).posterior([prior] * k, _brief(sampling, 1))
        drawn(brief, y, seeds, compute=where)
        found[name] = drawn(posterior, y, seeds, compute=where)
    alone, shared = found["alone"], found["shared"]
    return {
        "alone": alone.seconds,
        "shared": shared.seconds,
        "ratio": alone.seconds / shared.seconds,
        "same": all(torch.equal(one.x, other.x) for one, other in zip(alone.ranked, shared.ranked, strict=True)),
        "count": count,
        "threads": torch.get_num_threads(),
        "settings": posterior.described() | compute.described(),
    }


def _forget_peak(device: torch.device) -> bool:
    """Begin a new peak of memory use, if that can be done: on CUDA, and on Linux for a process as well."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak(device: torch.device) -> int:
    """Most bytes in use since :func:`_forget_peak`: by torch on CUDA, else by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@dataclass(frozen=True)
class Contender:
    """A sampler, how many samples it draws for each mixture, and what is made of them."""

    sampler: str
    samples: int = 1
    select: str = "best"

    @property
    def name(self) -> str:
        return self.sampler if self.samples == 1 else f"{self.sampler}, {self.select} of {self.samples}"

    def sampling(self, evaluations: int, base: Sampling) -> Sampling | None:
        """As many levels or steps as spend ``evaluations`` of a component, the scores of the samples included.

        ``None`` if they do not buy three levels (Algorithm 1: one step at each of ten).
        """
        each = evaluations // self.samples - (len(ranking.SIGMAS) if self.samples > 1 else 0)
        temperature = base.temperature if self.sampler == "langevin" else None
        own = replace(base, sampler=self.sampler, temperature=temperature)
        spec = plugins.sampler_spec(self.sampler)
        if spec.steps:
            return replace(own, levels=10, steps=each // 10) if each >= 10 else None
        levels = each // spec.evaluations
        return replace(own, levels=levels, steps=None, step_size=None) if levels >= 3 else None


CONTENDERS = (
    Contender("langevin"),
    Contender("ascent"),
    Contender("project"),
    Contender("ep"),
    Contender("mmps"),
    *(Contender("ep", n, select) for n in (2, 4, 8) for select in ("best", "mode")),
)
BUDGETS = (10, 20, 50, 100, 200, 500, 1000)


def frontier(
    data: Dataset,
    priors: Sequence[Prior],
    *,
    contenders: Sequence[Contender] = CONTENDERS,
    budgets: Sequence[int] = BUDGETS,
    protocol: str = "class-agnostic",
    pairs: int = 100,
    pairs_seed: int = 1,
    sampling: Sampling | None = None,
    compute: Compute | None = None,
    callback: Callable[[str, int], None] = lambda name, budget: None,
) -> list[dict[str, Any]]:
    """PSNR against network evaluations: every contender with every budget it can use, on the same mixtures.

    The default seed of the mixtures is not the one that results are reported on: defaults are chosen from this picture.

    Returns:
        One row each: ``contender``, ``budget``, ``evaluations`` (spent, for each component), ``psnr`` (as
        :func:`~basis_cli.evaluation.protocols.summary`), ``seconds`` and ``settings``. One whose samples are not finite
        is left out, with a :class:`RunWarning`.
    """
    rows = []
    for contender in contenders:
        for budget in budgets:
            chosen = contender.sampling(budget, sampling or Sampling())
            if chosen is None:
                continue
            callback(contender.name, budget)
            try:
                report = evaluate_separation(
                    data,
                    priors,
                    protocol=protocol,
                    pairs=pairs,
                    pairs_seed=pairs_seed,
                    samples=contender.samples,
                    select=contender.select,
                    sampling=chosen,
                    compute=compute,
                )
            except NotFiniteError as error:
                warnings.warn(f"{contender.name} with {budget} evaluations: {error}", RunWarning, stacklevel=2)
                continue
            kept = {key: report[key] for key in ("evaluations", "psnr", "seconds", "settings")}
            rows.append({"contender": contender.name, "budget": budget} | kept)
    return rows

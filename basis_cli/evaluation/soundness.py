"""Whether a prior is sound: what holds for every score, and which mistake it is that breaks it.

For pictures ``x0`` that it models, ``x = x0 + sigma z`` and ``D = x + sigma^2 score(x)``, the residual ``x - D`` is
uncorrelated with the error ``D - x0`` (``D`` is a conditional mean), so the best factor to multiply the score with,
``<x - x0, x - D> / |x - D|^2``, is one at every level. Other mistakes show as smaller denoising errors of what they
mistook: the same network asked with ``[-1, 1]`` for ``[0, 1]``, at twice the noise, its answer read as the noise.
"""

from __future__ import annotations

import itertools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..api import Level, Likelihood, Prior
from ..errors import BasisError
from ..plugins import sampler_spec
from ..posterior import Sampling
from ..samplers import geometric, karras
from ..samplers.noise import PerImageNoise
from ..tasks.separation import Separate

Inputs = dict[str, tuple[float, float, float]]
INPUTS: Inputs = {
    "it takes noise for twice as strong as it is": (1, 0, 0.5),
    "it takes noise for half as strong as it is": (1, 0, 2),
    "its network wants pictures in [-1, 1] and gets [0, 1]": (2, -1, 1),
    "its network wants pictures in [0, 1] and gets [-1, 1]": (0.5, 0.5, 1),
    "its network wants pictures in [0, 255] and gets [0, 1]": (255, 0, 1),
}
"""Mistakes in what a network is asked: it should be ``a x + b`` with noise ``c a sigma``, as ``(a, b, c)``."""

OUTPUTS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "": lambda x, r, sigma: x + sigma**2 * r,
    "the sign of its score is wrong": lambda x, r, sigma: x - sigma**2 * r,
    "its score is half of what it should be": lambda x, r, sigma: x + 2 * sigma**2 * r,
    "its score is twice what it should be": lambda x, r, sigma: x + sigma**2 / 2 * r,
    "it returns the noise, not the score -noise / sigma": lambda x, r, sigma: x - sigma * r,
    "it returns minus the noise, not the score -noise / sigma": lambda x, r, sigma: x + sigma * r,
    "it returns D(x) - x, not the score (D(x) - x) / sigma^2": lambda x, r, sigma: x + r,
    "it returns the denoised picture D(x), not the score (D(x) - x) / sigma^2": lambda x, r, sigma: r,
}
"""Mistakes in what a prior returns ``r`` for ``x``: how the denoised picture is read off it."""

MARGIN = 0.9
"""A mistake is named if without it the denoising error would be less than this part of what it is."""
FACTOR = (0.7, 1.4)
"""Where the best factor of a trained network's score lies."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    sound: bool
    measured: str
    expected: str


@dataclass
class Soundness:
    """What was found of a prior."""

    findings: list[Finding] = field(default_factory=list)
    levels: list[dict[str, float]] = field(default_factory=list)
    """At each noise level ``sigma``: the denoising error a pixel, the score's best ``factor``, and ``figure_2``, sigma
    times the score's norm over the root of the dimensions."""
    mistake: str = ""
    """What is probably wrong, in words."""
    milliseconds: float | None = None
    """An evaluation of one picture takes, in a batch."""
    bytes: int | None = None
    """It needs for what it computes, without the weights."""

    @property
    def sound(self) -> bool:
        return all(finding.sound for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line."""
        bad = next((finding for finding in self.findings if not finding.sound), None)
        return self.mistake or (f"{bad.what}: {bad.measured}; expected: {bad.expected}" if bad else "sound")

    def add(self, what: str, sound: bool, measured: object, expected: str) -> bool:
        self.findings.append(Finding(what, sound, str(measured), expected))
        return sound

    def as_record(self) -> dict[str, Any]:
        return {"sound": self.sound, "verdict": self.verdict} | asdict(self)


@torch.no_grad()
def check(
    prior: Prior,
    pictures: Tensor | None = None,
    *,
    count: int = 8,
    sigmas: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> Soundness:
    """Look at ``prior`` on ``pictures`` ``(n, c, h, w)`` in [0, 1], by default ``count`` that it draws itself.

    ``sigmas``, high to low, are the levels looked at: by default five of its own, or from 1 to 0.03; of what it draws,
    which has no fine grain, from 1 to 0.1. What it draws cannot show mistakes that make it a sound prior of other
    pictures.
    """
    found, inputs = Soundness(), INPUTS
    everywhere = list(sigmas or _some(prior.sigmas or geometric(5, 1.0, 0.03)))
    n = count if pictures is None else len(pictures)
    noise = PerImageNoise(range(n), device)
    gray = torch.full((n, *prior.shape), 0.5, device=device)
    try:
        if not _form(found, prior, gray + 0.5 * noise.normal((1, *gray.shape))[0], everywhere):
            return found
        if pictures is None:
            pictures = _drawn(found, prior, gray, noise)
            sigmas, inputs = sigmas or (everywhere if prior.sigmas else geometric(5, 1.0, 0.1)), {}
        if pictures is not None:
            x0 = pictures.to(device)
            noisy = {sigma: x0 + sigma * noise.normal((1, *x0.shape))[0] for sigma in sigmas or everywhere}
            _denoises(found, prior, x0, noisy, {"": (1, 0, 1)} | inputs)
            _likelihood(found, prior, noisy, noise)
        _cost(found, prior.at(everywhere[0]), gray)
    except Exception as error:  # a prior may raise anything
        reason = error.message if isinstance(error, BasisError) else f"{type(error).__name__}: {error}".splitlines()[0]
        found.add("runs", False, reason, "a score at every level")
    return found


def _some(sigmas: Sequence[float], most: int = 5) -> list[float]:
    """At most so many of them, the ends included."""
    if len(sigmas) <= most:
        return list(sigmas)
    return [sigmas[round(i * (len(sigmas) - 1) / (most - 1))] for i in range(most)]


def _form(found: Soundness, prior: Prior, x: Tensor, sigmas: Sequence[float]) -> bool:
    """Whether what it returns has the form of a score, and is a function of each picture alone."""
    middle, before = prior.at(sigmas[len(sigmas) // 2]), x.clone()
    score = middle.score(x)
    if not isinstance(score, Tensor):
        return found.add("returns", False, type(score).__name__, "a tensor")
    kind = f"{score.dtype} on {score.device}".removeprefix("torch.")
    good = found.add("shape", score.shape == x.shape, tuple(score.shape), str(tuple(x.shape)))
    good &= found.add("type", (score.dtype, score.device) == (x.dtype, x.device), kind, f"float32 on {x.device}")
    good &= found.add("its input", kept := torch.equal(x, before), "kept" if kept else "changed", "kept")
    if not good:
        return False
    scores = [prior.at(sigma).score(x) for sigma in sigmas]
    bad = ", ".join(f"{sigma:.3g}" for sigma, each in zip(sigmas, scores, strict=True) if not each.isfinite().all())
    if not found.add("finite", not bad, f"not at noise {bad}" if bad else "at every level", "at every level"):
        return False
    again, alone = _apart(score, middle.score(x)), _apart(score[:1], middle.score(x[:1]))
    good = found.add("the same twice", again < 1e-5, f"differs by {again:.1e}", "nothing random, such as dropout")
    if good:
        good = found.add("the same alone", alone < 1e-3, f"differs by {alone:.1e}", "no statistics of the batch")
    if len(sigmas) > 1:
        apart = _apart(scores[0], scores[-1])
        good &= found.add("knows the noise level", apart > 1e-3, f"differs by {apart:.1e}", "another score at another")
    return good


def _apart(a: Tensor, b: Tensor) -> float:
    """Their distance, relative to the size of ``a``."""
    return float((a - b).norm() / a.norm().clamp(min=1e-12))


def _drawn(found: Soundness, prior: Prior, gray: Tensor, noise: PerImageNoise) -> Tensor | None:
    """Samples by ancestral sampling (Ho et al. 2020), which nothing forces into [0, 1]; ``None`` if they are no use."""
    sigmas = _some(prior.sigmas, 24) if prior.sigmas else karras(24, 1.3)
    z = noise.normal((1, *gray.shape))[0]
    along = float(-(sigmas[0] * prior.at(sigmas[0]).score(gray + sigmas[0] * z) * z).mean())
    if not found.add("points back along high noise", 0.6 < along < 1.4, f"{along:.2f}", "1, whatever the pictures"):
        found.mistake = "the sign of its score is wrong" if along < -0.5 else "the size of its score is wrong"
        return None
    x = gray + sigmas[0] * z
    for sigma, after in itertools.zip_longest(sigmas, sigmas[1:], fillvalue=0.0):
        x = x + (sigma**2 - after**2) * prior.at(sigma).score(x)
        x = x + after * (1 - (after / sigma) ** 2) ** 0.5 * noise.normal((1, *gray.shape))[0]
    low, high = (float(torch.quantile(x.flatten()[: 2**23], q)) for q in (0.02, 0.98))
    if not found.add("what it draws", -0.3 < low and high < 1.3, f"{low:.2f} to {high:.2f}", "within [0, 1]"):
        found.mistake = "what it draws is not in [0, 1]"
        return None
    return x


def _denoises(found: Soundness, prior: Prior, x0: Tensor, noisy: dict[float, Tensor], inputs: Inputs) -> None:
    """Denoising errors, Figure 2 and Tweedie's residual; and the mistake that explains them best if they are bad."""
    for sigma, x in noisy.items():
        score = prior.at(sigma).score(x)
        step = -(sigma**2) * score
        found.levels.append(
            {
                "sigma": sigma,
                "error": float((x - step - x0).square().mean()),
                "factor": float(((x - x0) * step).sum() / step.square().sum().clamp(min=1e-30)),
                "figure_2": float(sigma * score.flatten(1).norm(dim=1).mean() / math.sqrt(x0[0].numel())),
            }
        )
    size = found.levels[0]["figure_2"]
    found.add("sigma times the score's norm (Figure 2)", 0.75 < size < 1.25, f"{size:.2f}", "1 at high noise")
    errors = [level["error"] for level in found.levels]
    falls = errors[-1] <= errors[0] and all(after < 1.1 * before for before, after in itertools.pairwise(errors))
    found.add("error falls with noise", falls, " ".join(f"{error:.1e}" for error in errors), "falling")
    worse = ", ".join(f"{level['sigma']:.2g}" for level in found.levels if level["error"] > level["sigma"] ** 2)
    found.add("denoises", not worse, f"not noise {worse}" if worse else "at every level", "error below sigma^2")
    factors = [level["factor"] for level in found.levels]
    good = all(FACTOR[0] < factor < FACTOR[1] for factor in factors)
    found.add("best factor of the score (Tweedie)", good, " ".join(f"{factor:.2f}" for factor in factors), "1")
    mistake, gain = _mistake(prior, x0, noisy, inputs)
    found.mistake = mistake if gain < MARGIN else ""
    found.add("best other reading", gain >= MARGIN, f"error x {gain:.2f} if {mistake}", f"error x {MARGIN} or more")


def _mistake(prior: Prior, x0: Tensor, noisy: dict[float, Tensor], inputs: Inputs) -> tuple[str, float]:
    """The mistake whose absence would lessen the denoising error most, and by what factor.

    Errors are compared by their geometric mean over the levels.
    """
    errors: dict[str, float] = {}
    for name, error in _readings(prior, x0, noisy, inputs):
        errors[name] = min(error, errors.get(name, math.inf))
    as_it_is = errors.pop("")
    mistake = min(errors, key=errors.__getitem__)
    return mistake, errors[mistake] / as_it_is


def _readings(prior: Prior, x0: Tensor, noisy: dict[float, Tensor], inputs: Inputs) -> Iterator[tuple[str, float]]:
    """Every single mistake, and the denoising error if it were one."""
    for asked, (a, b, c) in inputs.items():
        try:
            returned = {sigma: a * prior.at(a * c * sigma).score(a * x + b) for sigma, x in noisy.items()}
        except BasisError:  # a level that it does not know
            continue
        for read, denoised in OUTPUTS.items():
            if asked and read:
                continue
            for part in {1, c}:  # of the noise, which it may have divided by as it is, or as it takes it
                cleans = [denoised(noisy[sigma], r, part * sigma) for sigma, r in returned.items()]
                errors = [float((clean - x0).square().mean().nan_to_num(1e30)) for clean in cleans]
                yield asked or read, math.exp(sum(math.log(error + 1e-30) for error in errors) / len(errors))


def _likelihood(found: Soundness, prior: Prior, noisy: dict[float, Tensor], noise: PerImageNoise) -> None:
    """``log_prob``, if it has one, by central differences along the score and across it."""
    slopes = []
    for sigma, x in noisy.items():
        level = prior.at(sigma)
        if not isinstance(level, Likelihood):
            return
        score = level.score(x)
        across = noise.normal((1, *x.shape))[0]
        ways = [each / each.flatten(1).norm(dim=1)[:, None, None, None] for each in (score, across)]
        way, h = ways[0] + 0.3 * ways[1], 0.1 * sigma
        slope = (level.log_prob(x + h * way) - level.log_prob(x - h * way)) / (2 * h)
        slopes.append(float((slope / (score * way).flatten(1).sum(1)).mean()))
    good = all(0.9 < slope < 1.1 for slope in slopes)
    measured = " ".join(f"{slope:.2f}" for slope in slopes)
    if not found.add("slope of log_prob over score", good, measured, "1") and not found.mistake:
        found.mistake = "its score is not the gradient of its log_prob, in nats"


def _cost(found: Soundness, level: Level, x: Tensor) -> None:
    """Time and memory of an evaluation."""
    began, runs = time.perf_counter(), 0
    while time.perf_counter() - began < 0.1:
        level.score(x)[0, 0, 0, 0].item()
        runs += 1
    found.milliseconds = 1000 * (time.perf_counter() - began) / (runs * len(x))
    with _Allocations() as allocations:
        level.score(x)
    found.bytes = allocations.most // len(x)


def separation_seconds(prior: Prior, found: Soundness) -> float | None:
    """How long a separation of one picture into two takes as it is, by the time of an evaluation; ``None``: unknown."""
    if found.milliseconds is None:
        return None
    sampling = Sampling().over(Separate.defaults)
    evaluations = sampler_spec(str(sampling.sampler)).evaluations * len(sampling.sigmas([prior]))
    return 2 * evaluations * found.milliseconds / 1000


class _Allocations(TorchDispatchMode):
    """The most bytes that tensors made inside it held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self.seen:
                self.seen.add(key)
                size = tensor.untyped_storage().nbytes()
                self.held += size
                self.most = max(self.most, self.held)
                weakref.finalize(tensor.untyped_storage(), self._freed, key, size)
        return made

    def _freed(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.held -= size

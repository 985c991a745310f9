"""Measures a prior and a sampler on a whole protocol, as the paper does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from . import metrics, samplers, selection
from .api import Prior
from .datasets import Dataset, mixture_indices
from .operators import Mixture
from .tasks import Sampling, image_seed, ranked_samples

PAPER_PSNR = {  # Table 2: mean PSNR in dB over 6,000 MNIST pairs
    "class-split": {
        "average": 14.8,
        "NMF": 16.0,
        "NES": 24.3,
        "BASIS Glow": 22.9,
        "BASIS Glow 10x": 27.7,
        "BASIS NCSN": 29.5,
    },
    "class-agnostic": {
        "average": 14.9,
        "NMF": 9.4,
        "S-D": 18.5,
        "BASIS Glow": 22.7,
        "BASIS Glow 10x": 27.1,
        "BASIS NCSN": 29.3,
    },
}


def summary(psnr: np.ndarray) -> dict[str, Any]:
    """Mean, its standard error, median and shares of a set of PSNRs, in dB."""
    return {
        "mean": float(psnr.mean()),
        "standard_error": float(psnr.std(ddof=1) / np.sqrt(len(psnr))) if len(psnr) > 1 else None,
        "median": float(np.median(psnr)),
        "share_above_25_db": float((psnr > 25).mean()),
        "share_above_mean": float((psnr > psnr.mean()).mean()),
    }


def evaluate_separation(
    data: Dataset,
    priors: Sequence[Prior],
    *,
    protocol: str = "class-agnostic",
    pairs: int = 500,
    pairs_seed: int = 0,
    samples: int = 1,
    select: str = "best",
    sampling: Sampling | None = None,
    callback: Callable[..., None] = samplers.no_callback,
) -> dict[str, Any]:
    """Separate ``pairs`` mixtures of ``len(priors)`` pictures of ``data``: Table 2 and Figure 6.

    The PSNR of a mixture is the mean over its components, clipped to [0, 1], under the best permutation. The samples
    are judged as the sampler leaves them, without the last correction that :func:`basis_cli.tasks.separate` makes.

    Of several ``samples`` the one to judge is made as ``select`` says, see
    :meth:`basis_cli.selection.Ranked.select` (``all`` judges the most probable one).

    Returns:
        ``psnr`` and ``average`` (the baseline that answers with the mean picture) as :func:`summary` makes them,
        ``psnr_per_mixture``, ``residual_8bit_rms`` of the sum over k, seconds, evaluations and the settings.
    """
    sampling = sampling or Sampling()
    k = len(priors)
    chosen = mixture_indices(data.labels, k, pairs, protocol, pairs_seed)
    truth = torch.from_numpy(data.images[chosen].swapaxes(0, 1).astype(np.float32) / 255)
    operator = Mixture([1 / k] * k)
    y = operator(truth)
    began = time.perf_counter()
    seeds = [  # the first sample is the one that is drawn alone
        [image_seed(sampling.seed, pair, *([sample] if sample else [])) for sample in range(samples)]
        for pair in range(pairs)
    ]
    ranked, evaluations = ranked_samples(priors, operator, y, seeds, sampling, callback)
    seconds = time.perf_counter() - began
    x = torch.stack([one.select(select)[:, 0] for one in ranked], dim=1)
    off = metrics.residual(operator(x), y)
    x = x.clamp(0, 1)
    x = metrics.reordered(x, metrics.component_order(x, [0] * k, references=truth, mixture=y))
    psnr = metrics.psnr(x, truth).mean(0).numpy()
    average = metrics.psnr(y[None].expand_as(truth), truth).mean(0).numpy()
    return {
        "data": data.name,
        "split": data.split,
        "protocol": protocol,
        "k": k,
        "mixtures": pairs,
        "pairs_seed": pairs_seed,
        "psnr": summary(psnr),
        "average": summary(average),
        "residual_8bit_rms": float(off.square().mean().sqrt()),
        "evaluations": evaluations,
        "seconds": seconds,
        "distinct_answers": float(np.mean([max(one.answer) + 1 for one in ranked])),
        "settings": sampling.described(priors) | {"samples": samples, "select": select},
        "psnr_per_mixture": [round(float(value), 3) for value in psnr],
    }


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
        each = evaluations // self.samples - (len(selection.SIGMAS) if self.samples > 1 else 0)
        if self.sampler in ("langevin", "ascent"):
            return replace(base, sampler=self.sampler, levels=10, steps=each // 10) if each >= 10 else None
        levels = each // EVALUATIONS_A_LEVEL.get(self.sampler, 1)
        return replace(base, sampler=self.sampler, levels=levels, steps=None, step_size=None) if levels >= 3 else None


EVALUATIONS_A_LEVEL = {"ep": 2, "mmps": 7}
"""1 unless stated here; a vector-Jacobian product counts as two."""
CONTENDERS = (
    Contender("langevin"),
    Contender("ascent"),
    Contender("project"),
    Contender("ep"),
    Contender("mmps"),
    *(Contender("project", n, select) for n in (2, 4, 8) for select in ("best", "mode")),
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
    callback: Callable[[str, int], None] = lambda name, budget: None,
) -> list[dict[str, Any]]:
    """PSNR against network evaluations: every contender with every budget it can use, on the same mixtures.

    The default seed of the mixtures is not the one that results are reported on: defaults are chosen from this picture.

    Returns:
        One row each: ``contender``, ``budget``, ``evaluations`` (spent, for each component), ``psnr`` (as
        :func:`summary`), ``seconds`` and ``settings``.
    """
    rows = []
    for contender in contenders:
        for budget in budgets:
            chosen = contender.sampling(budget, sampling or Sampling())
            if chosen is None:
                continue
            callback(contender.name, budget)
            report = evaluate_separation(
                data,
                priors,
                protocol=protocol,
                pairs=pairs,
                pairs_seed=pairs_seed,
                samples=contender.samples,
                select=contender.select,
                sampling=chosen,
            )
            kept = {key: report[key] for key in ("evaluations", "psnr", "seconds", "settings")}
            rows.append({"contender": contender.name, "budget": budget} | kept)
    return rows

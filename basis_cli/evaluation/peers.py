"""Our samplers beside those of other authors, on the same network and the same pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..api import Prior
from ..compute import Compute
from ..data.datasets import Dataset
from ..posterior import Sampling, drawn, ordering
from ..posterior.runner import corrected
from ..samplers.noise import picture_seeds
from ..tasks.base import Shape, Task
from ..tasks.colorization import Colorize
from ..tasks.inpainting import Inpaint, Masked
from ..tasks.separation import Separate
from ..tasks.upscaling import Upscale
from .benchmarks import Contender
from .diversity import BATCH, Layered, feature_distance
from .metrics import ssim
from .protocols import average, mixtures, of_shape

PEERS = ("dps", "pigdm", "ddrm", "diffpir", "dpir", "daps", "pnp-dm", "msdm", "repaint")
"""Those of other authors (:mod:`basis_cli.samplers.peers`)."""
OURS = ("project", "mmps")
"""Ours beside the default of the task, for any task."""
BASELINE, DEFAULT = "no prior", "default"


@dataclass(frozen=True)
class Contest:
    """A task, and the network and the pictures that all samplers have."""

    title: str
    task: Callable[[Shape, int], Task]
    """Made for pictures of a shape, from a seed."""
    prior: str = "ncsn-cifar"
    data: str = "cifar10"
    leaves_out: tuple[str, ...] = ("msdm",)
    """What cannot do the task."""


def _scattered(shape: Shape, seed: int) -> Task:
    missing = torch.rand(1, *shape[1:], generator=torch.Generator().manual_seed(seed)) < 0.7
    return Masked("70 % of the pixels", missing=missing.float())


CONTESTS = {
    "separation": Contest("Mixtures of two digits", lambda *_: Separate(2), "ncsn-mnist", "mnist", ()),
    "half": Contest("The right half is missing", lambda *_: Inpaint("right")),
    "pixels": Contest("70 % of the pixels are missing", _scattered),
    "upscaling": Contest("Upscaling, 4 x", lambda *_: Upscale(4)),
    "colors": Contest("Colours", lambda *_: Colorize()),
}


def contend(
    name: str,
    contest: Contest,
    data: Dataset,
    prior: Prior,
    network: Layered,
    count: int = 32,
    evaluations: int = 100,
    seed: int = 0,
    compute: Compute | None = None,
) -> dict[str, Any]:
    """Undo what was done to ``count`` pictures of ``data``, one sample each, and compare with them.

    Mixtures are drawn by ``seed``, as :func:`~.protocols.mixtures` does; other tasks have the first pictures. What is
    observed is rounded to 8 bits. A sampler gets as many noise levels as spend ``evaluations`` of the network, but
    ``dpir``, which has eight, and :data:`DEFAULT`, the task's own settings. All answers are moved within [0, 1] and
    onto what was observed, as files are.

    Args:
        name: of a sampler, :data:`DEFAULT` or :data:`BASELINE`.
        network: for :func:`~.diversity.feature_distance`.

    Returns:
        ``name``, ``evaluations`` (of each component), ``seconds`` (for all pictures; on a CPU the processor's, whatever
        else runs) and ``settings``; of each picture, or mixture (the mean over its components), ``psnr`` in dB,
        ``ssim`` and ``feature_distance``.
    """
    task = contest.task(data.shape, seed)
    if isinstance(task, Separate):
        _, truth, _ = mixtures([data], task.k, count, "class-agnostic", seed)
    else:
        truth = data[:count][None]
    prior = of_shape(prior, data.name, truth)
    operator = task.operator(prior.shape)
    y = (operator(truth) * 255).round() / 255
    if name == BASELINE:
        untouched = {"name": name, "evaluations": 0, "seconds": None, "settings": {}}
        return untouched | _judged(task.baseline(y, prior.shape)[None].expand_as(truth), truth, network)
    posterior = task.posterior([prior] * operator.k, _sampling(name, evaluations, seed))
    began, compute = time.process_time(), compute or Compute()
    found = drawn(posterior, y, picture_seeds(seed, y, 1), compute=compute, rank=False)
    spent = time.process_time() - began if compute.place.type == "cpu" else found.seconds
    x = corrected(posterior, torch.stack([one.x[:, 0] for one in found.ranked], dim=1), y)
    x = ordering.reordered(x, ordering.component_order(x, posterior.kinds, references=truth, mixture=y))
    about = {"evaluations": found.evaluations, "seconds": spent, "settings": posterior.described()}
    return {"name": name} | about | _judged(x, truth, network)


def _sampling(name: str, evaluations: int, seed: int) -> Sampling:
    base = Sampling(seed=seed)
    if name == DEFAULT:
        return base
    if name == "dpir":
        return Sampling(name, seed=seed)
    chosen = Contender(name).sampling(evaluations, base)
    assert chosen, f"{evaluations} evaluations buy {name} no run"
    return chosen


@torch.no_grad()
def _judged(x: Tensor, truth: Tensor, network: Layered) -> dict[str, list[float]]:
    """PSNR, SSIM and distance of features of each answer, the mean over the components of ``x`` ``(k, n, c, h, w)``."""
    seen = (each.flatten(0, 1).mul(255).round().div(255).split(BATCH) for each in (x, truth))
    apart = [feature_distance(network.layers(a), network.layers(b)) for a, b in zip(*seen, strict=True)]
    figures = {
        "psnr": ordering.psnr(x, truth),
        "ssim": ssim(x, truth),
        "feature_distance": torch.cat(apart).cpu().view(x.shape[:2]),
    }
    return {name: [round(float(value), 5) for value in values.mean(0)] for name, values in figures.items()}


def gains(rows: Sequence[dict[str, Any]], of: str = DEFAULT) -> dict[str, list[tuple[str, float, float]]]:
    """By how much peers are better than the row called ``of``.

    Returns:
        Of each measure, each peer, the mean of the paired differences, and their standard error; the best first.
    """
    ours = next(row for row in rows if row["name"] == of)
    found: dict[str, list[tuple[str, float, float]]] = {}
    for measure, sign in (("psnr", 1), ("ssim", 1), ("feature_distance", -1)):
        found[measure] = []
        for row in rows:
            if row["name"] in PEERS:
                gain = average((torch.tensor(row[measure]) - torch.tensor(ours[measure])).double().numpy() * sign)
                found[measure].append((row["name"], gain["mean"], gain["standard_error"]))
        found[measure].sort(key=lambda each: -each[1])
    return found

"""How varied the samples of a posterior are, and how much they look like what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UsageError
from .metrics import Statistics, features_of, frechet_distance

BANDWIDTHS = (0.3, 0.2, 0.15)
"""Of the faithfulness-weighted variance, those of the published tables."""
BATCH = 25
"""Pictures that pass the network at once."""


class Layered(Protocol):
    """A network with features at several depths, such as :class:`~basis_cli.evaluation.imagenet.ImageNet`."""

    def layers(self, x: Tensor) -> list[Tensor]:
        """Features ``(n, c, h, w)`` of pictures ``(n, c, h, w)``, of length one at every pixel."""


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Between pictures with the layers ``a`` and ``b``: ``(n,)``, from 0 to 4.

    Squared differences of features of length one, summed over channels, averaged over pixels and over layers.
    """
    return torch.stack([(f - g).square().sum(1).mean((1, 2)) for f, g in zip(a, b, strict=True)]).mean(0)


@torch.no_grad()
def diversity(
    network: Any, samples: Tensor, truth: Tensor, bandwidths: Sequence[float] = BANDWIDTHS
) -> dict[str, dict[str, float]]:
    """How varied ``samples`` ``(n, m, c, h, w)`` of each picture are, and how near the ``truth`` ``(n, c, h, w)``.

    The faithfulness-weighted variance (Li et al. 2020) counts the variety of samples near the truth only::

        FWV = 1/n sum_i 1/m sum_j exp(-d(x_ij, t_i)^2 / (2 bandwidth^2)) d(x_ij, mean_j x_ij)

    with ``d`` the :func:`feature_distance` of the layers of ``network``, a :class:`Layered` module. It depends on that
    network and, where samples are few, on how many they are: compare figures of the same only. Pictures are rounded to
    8 bits, as files hold them.

    Returns:
        ``FWV BANDWIDTH`` for each bandwidth, ``distance to the truth`` and ``distance to the mean``, each with its
        ``mean`` over pictures and its ``standard_error``.

    Raises:
        UsageError: fewer than two samples or pictures.
    """
    n, m = samples.shape[:2]
    measurable(m, n)
    device = next(network.parameters(), samples).device
    away, apart = torch.empty(2, n, m, dtype=torch.float64)
    for i in range(n):
        ends = _layers(network, torch.stack([truth[i], samples[i].mean(0)]).to(device))
        for start in range(0, m, BATCH):
            found = _layers(network, samples[i, start : start + BATCH].to(device))
            for row, end in ((away, 0), (apart, 1)):
                row[i, start : start + BATCH] = feature_distance(found, [f[[end]] for f in ends]).cpu()
    figures = {f"FWV {b:g}": (-(away**2) / (2 * b**2)).exp() * apart for b in bandwidths}
    figures |= {"distance to the truth": away, "distance to the mean": apart}
    return {name: _summary(values.mean(1)) for name, values in figures.items()}


def measurable(samples: int, pictures: int) -> None:
    """Raise a UsageError unless there are several of both."""
    if min(samples, pictures) < 2:
        raise UsageError(f"the variety of {samples} samples of {pictures} pictures cannot be measured", "--samples 10")


def _layers(network: Any, x: Tensor) -> list[Tensor]:
    return network.layers(x.clamp(0, 1).mul(255).round().float() / 255)


def _summary(values: Tensor) -> dict[str, float]:
    return {"mean": float(values.mean()), "standard_error": float(values.std() / len(values) ** 0.5)}


def likeness(network: Any, answers: Mapping[str, Tensor], truth: Tensor) -> dict[str, dict[str, float]]:
    """How much ``answers``, each ``(n, c, h, w)`` and n at least 2, look like the ``truth`` ``(n, c, h, w)``.

    ``network`` gives logits and features, as :class:`~basis_cli.evaluation.imagenet.ImageNet` does. Of each answer
    ``imagenet-FD``, the Frechet distance between the features of all answers and of all true pictures, and ``top-5``,
    the share of answers among whose five likeliest classes is that of the true picture.
    """
    logits, features = features_of(network, truth, BATCH)
    label, reference = logits.argmax(1, keepdim=True), Statistics.of(features)
    found = {}
    for name, x in answers.items():
        logits, features = features_of(network, x, BATCH)
        right = (logits.topk(5, dim=1).indices == label).any(1)
        distance = max(0.0, frechet_distance(features, reference))  # of equal sets it is rounded below zero
        found[name] = {"imagenet-FD": distance, "top-5": float(right.double().mean())}
    return found


def caveats(count: int, dimensions: int = 1280) -> list[str]:
    """What to know of a Frechet distance of so few pictures as ``count``."""
    few = f"imagenet-FD: {count} pictures do not tell the covariance of {dimensions} features"
    return [f"{few}; compare figures of equally many only"] if count <= dimensions else []

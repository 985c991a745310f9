"""Codes for pictures: for each the one whose answer is nearest, found module by module (CHIMLE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from basis_cli.api import samplers

from .network import Generator

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of answers and truths ``(n, 3, h, w)``, ``(n,)``."""
AT_ONCE = 2**17
"""Pixels of candidates that are judged together."""


def code(seeds: Sequence[int], length: int, device: torch.device) -> Tensor:
    """White noise ``(n, length)``, each row from its own seed."""
    return samplers.PerImageNoise(seeds, device).normal((1, len(seeds), length))[0]


def codes(seeds: Tensor, lengths: Sequence[int], device: torch.device) -> list[Tensor]:
    """Those of all modules, of ``seeds`` ``(n, modules)``."""
    return [code(column.tolist(), length, device) for column, length in zip(seeds.T, lengths, strict=True)]


def targets(x: Tensor, modules: int) -> list[Tensor]:
    """What each module is to make of ``x`` ``(n, 3, h, w)``: it, shrunk by means."""
    return [F.avg_pool2d(x, 2**i) if i else x for i in reversed(range(modules))]


@torch.no_grad()
def hierarchical_search(
    network: Generator, y: Tensor, x: Tensor, candidates: Sequence[Tensor], distance: Distance
) -> tuple[Tensor, Tensor]:
    """The seeds whose codes bring the answer to each ``y`` nearest to its truth ``x`` ``(n, 3, h, w)``.

    First the code of the first module is chosen, by the distance of its small picture to the shrunk truth, then with
    that the one of the second, and so on: ``m_1 + m_2 + ...`` candidates act like ``m_1 m_2 ...``.

    Args:
        candidates: their seeds, one tensor ``(n, m_i)`` for each module; a picture's choice depends on nothing else.

    Returns:
        The chosen seeds ``(n, modules)``, and the distance of the last picture ``(n,)``.
    """
    chosen, found = [], []
    most = max(column.shape[1] for column in candidates)
    size = max(1, AT_ONCE // (most * x.shape[2] * x.shape[3]))
    for part in range(0, len(x), size):
        at = slice(part, part + size)
        seeds, nearest = _searched(network, y[at], x[at], [each[at] for each in candidates], distance)
        chosen.append(seeds)
        found.append(nearest)
    return torch.cat(chosen), torch.cat(found)


def _searched(
    network: Generator, y: Tensor, x: Tensor, candidates: Sequence[Tensor], distance: Distance
) -> tuple[Tensor, Tensor]:
    size = (x.shape[2], x.shape[3])
    lengths, truths, rows = network.lengths(size), targets(x, len(candidates)), torch.arange(len(x))
    before: Tensor | None = None
    styles: list[Tensor] = []
    chosen = []
    for i, (given, truth) in enumerate(zip(network.conditions(y, size), truths, strict=True)):
        m = candidates[i].shape[1]
        noise = code(candidates[i].flatten().tolist(), lengths[i], x.device)

        def each(tensor: Tensor, m: int = m) -> Tensor:
            return tensor.repeat_interleave(m, dim=0)

        coarser = None if before is None else each(before)
        made, after, style = network.module(i, each(given), noise, coarser, [each(one) for one in styles])
        made = network.agreeing(made, each(y)) if i + 1 == len(candidates) else made
        distances = distance(made, each(truth)).view(len(x), m)
        best = distances.argmin(1)
        kept = (rows * m).to(best.device) + best
        before, styles = after[kept], [*styles, style[kept]]
        chosen.append(candidates[i].to(best.device).gather(1, best[:, None])[:, 0])
        nearest = distances.gather(1, best[:, None])[:, 0]
    return torch.stack(chosen, dim=1), nearest

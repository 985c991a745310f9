"""Ladders of noise levels, high to low."""

from __future__ import annotations

from collections.abc import Sequence


def geometric(levels: int, high: float = 1.0, low: float = 0.01) -> tuple[float, ...]:
    """``levels`` noise levels from ``high`` down to ``low`` with a constant ratio (section 3.4)."""
    if levels == 1:
        return (low,)
    return tuple(high * (low / high) ** (i / (levels - 1)) for i in range(levels))


def karras(levels: int, high: float = 1.0, low: float = 0.03, rho: float = 1.2) -> tuple[float, ...]:
    """``levels`` noise levels from ``high`` down to ``low``, evenly spaced in ``sigma^(1/rho)`` (Karras et al. 2022).

    ``rho = 1`` is linear and a large one geometric. A small one spends the evaluations at high noise, where it is
    decided which stroke belongs to which component: with few of them that separates better than :func:`geometric`.
    """
    if levels == 1:
        return (high,)
    first, last = high ** (1 / rho), low ** (1 / rho)
    return tuple((first + (last - first) * i / (levels - 1)) ** rho for i in range(levels))


def linear(levels: int, high: float = 1.3, low: float = 0.03) -> tuple[float, ...]:
    """``levels`` evenly spaced noise levels from ``high`` down to ``low``: where :func:`ep` separates best."""
    return karras(levels, high, low, rho=1.0)


def wide(levels: int, high: float = 14.0, low: float = 0.03) -> tuple[float, ...]:
    """``levels`` noise levels from what hides the mean colour of 64 x 64 pixels down to ``low``."""
    return karras(levels, high, low, rho=4.0)


def from_coarse(sigmas: Sequence[float], halvings: int) -> tuple[float, ...]:
    """``sigmas``, and before them those of its highest octave again for every halving, twice as high each time.

    For pictures that are settled scale by scale (:class:`basis_cli.priors.PyramidPrior`): every scale comes down from
    as much noise, in as small steps.
    """
    octave = [sigma for sigma in sigmas if sigma > sigmas[0] / 2]
    return (*(sigma * 2**i for i in range(halvings, 0, -1) for sigma in octave), *sigmas)


PAPER_SIGMAS = geometric(10)

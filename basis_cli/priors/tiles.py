"""Pictures larger than a prior's: overlapping tiles, blended at every step, of the picture alone or at every scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..api import AnySize, AnySizeModel, Conditional, DirectModel, Level, Prior
from ..compute import compile_networks
from ..errors import UsageError
from ..operators import Gray, LinearOperator
from . import contract
from .wrapper import Wrapper

PIXELS = 2**17
"""Pixels through the network at once, whatever the size of the picture."""
WHOLE = 2**20
"""Pixels up to which a prior of any size sees the whole picture: about a gigabyte of a network's layers."""
LARGE_TILE, LARGE_OVERLAP = 512, 32
"""Of a prior of any size, for larger pictures. Its network sees little farther than the overlap."""


class TiledPrior:
    """A prior of pictures ``size`` ``(h, w)`` that knows of them what ``prior`` knows of each tile.

    Its score is the average of the tiles' scores, weighted by raised cosines where they overlap (MultiDiffusion,
    Bar-Tal et al. 2023). A sampler sees one large picture and one noise, so nothing is stitched together afterwards.

    Args:
        overlap: pixels that neighbouring tiles share at least; by default half a tile. The last tiles are flush with
            the edge.
        at_once: tiles evaluated together, by default as many as have :data:`PIXELS`; what comes out is the same.

    Raises:
        UsageError: the picture is smaller than a tile, or the overlap is not smaller than that.
    """

    def __init__(self, prior: Prior, size: tuple[int, int], overlap: int | None = None, at_once: int | None = None):
        channels, *self.tile = prior.shape
        if any(side < tile for side, tile in zip(size, self.tile, strict=True)):
            raise UsageError(f"{size[1]} x {size[0]} pixels are less than a tile of {self.tile[1]} x {self.tile[0]}")
        if overlap is not None and not 0 <= overlap < min(self.tile):
            raise UsageError(f"tiles of {self.tile[1]} x {self.tile[0]} cannot overlap by {overlap} pixels")
        self.prior, self.shape, self.sigmas, self.overlap = prior, (channels, *size), prior.sigmas, overlap
        self.overlaps = [tile // 2 if overlap is None else overlap for tile in self.tile]
        rows, columns = map(starts, size, self.tile, self.overlaps)
        self.corners = [(row, column) for row in rows for column in columns]
        self.at_once = at_once or max(1, PIXELS // math.prod(self.tile))

    def compile(self) -> None:
        compile_networks([self.prior])

    def at(self, sigma: float) -> TiledLevel:
        return TiledLevel(self, contract.level(self.prior, sigma))

    def given(self, operator: LinearOperator) -> TiledPrior | None:
        """See :class:`basis_cli.api.Conditional`: of operators that do the same to every pixel."""
        known = given_everywhere(self.prior, operator)
        return TiledPrior(known, self.shape[1:], self.overlap, self.at_once) if known else None


class TiledLevel:
    """A :class:`TiledPrior` at one noise level."""

    def __init__(self, tiled: TiledPrior, level: Level):
        self.tiled, self.level = tiled, level

    def score(self, x: Tensor) -> Tensor:
        h, w = self.tiled.tile
        down, across = map(raised_cosine, self.tiled.tile, self.tiled.overlaps, [x.device] * 2)
        window = down[:, None] * across
        total, weight = torch.zeros_like(x), torch.zeros_like(x[0, 0])
        corners, size = self.tiled.corners, max(1, self.tiled.at_once // len(x))
        for part in (corners[first : first + size] for first in range(0, len(corners), size)):
            scores = self._together(torch.cat([x[..., top : top + h, left : left + w] for top, left in part]))
            for (top, left), score in zip(part, scores.chunk(len(part)), strict=True):
                total[..., top : top + h, left : left + w] += window * score
                weight[top : top + h, left : left + w] += window
        return total / weight

    def _together(self, tiles: Tensor) -> Tensor:
        """Their scores. When they are to be differentiated they are computed again, instead of kept for all tiles."""
        if not torch.is_grad_enabled():
            return contract.score(self.level, tiles)
        return checkpoint(contract.score, self.level, tiles, use_reentrant=False)  # type: ignore[no-any-return]


class PyramidPrior:
    """A prior of pictures ``size`` ``(h, w)`` that sees them at every scale: shrunk, as a whole, and in tiles.

    The mean of 2 x 2 pixels that have independent noise ``sigma`` has noise ``sigma / 2``, and a photograph that was
    shrunk is a photograph. So the denoised picture is taken from the shrunk one, denoised as such, and only what is
    finer than that from tiles of the picture itself, with ``P`` the mean and ``U`` its repetition::

        D(x; sigma) = U D(P x; sigma / 2) + (1 - U P) D_tiles(x; sigma)

    The shrunk picture in turn is halved until a tile covers most of it. A scale counts while its own noise is
    between :data:`FINEST` and :data:`COARSEST`: above, what is finer is taken to be zero, so that a picture is settled
    from its large shapes to its details; below, the finer scale sees more. So noise levels must begin at
    ``2**halvings`` times the usual one: :func:`basis_cli.samplers.from_coarse`.

    Args:
        overlap: of tiles, as for :class:`TiledPrior`. Without it, a prior of any size sees every scale as a whole
            (:func:`sized`).

    Raises:
        UsageError: as for :class:`TiledPrior`; or ``prior`` has noise levels of its own, which another scale has not.
    """

    def __init__(self, prior: Prior, size: tuple[int, int], overlap: int | None = None):
        if prior.sigmas:
            raise UsageError("a pyramid needs a prior that takes any noise level", "--tile without --pyramid")
        sizes = [size]
        while all(-(-side // 2) >= tile for side, tile in zip(sizes[-1], prior.shape[1:], strict=True)):
            h, w = sizes[-1]
            sizes.append((-(-h // 2), -(-w // 2)))
        self.prior, self.shape, self.overlap = prior, (prior.shape[0], *size), overlap
        self.sigmas: tuple[float, ...] | None = None
        self.scales = [
            sized(prior, each) if isinstance(prior, AnySize) and overlap is None else TiledPrior(prior, each, overlap)
            for each in sizes
        ]
        self.halvings = len(sizes) - 1

    def compile(self) -> None:
        compile_networks([self.prior])

    def at(self, sigma: float) -> PyramidLevel:
        speaking = [i for i in range(len(self.scales)) if FINEST <= sigma / 2**i <= COARSEST]
        speaking = speaking or [0 if sigma < FINEST else self.halvings]
        return PyramidLevel([None] * speaking[0] + [self.scales[i].at(sigma / 2**i) for i in speaking], sigma)

    def given(self, operator: LinearOperator) -> PyramidPrior | None:
        """See :class:`basis_cli.api.Conditional`: of operators that do the same to every pixel, shrunk or not."""
        known = given_everywhere(self.prior, operator)
        return PyramidPrior(known, self.shape[1:], self.overlap) if known else None


def given_everywhere(prior: Prior, operator: LinearOperator) -> Prior | None:
    """``prior.given(operator)`` of an operator that does the same to every pixel, else ``None``."""
    return prior.given(operator) if isinstance(operator, Gray) and isinstance(prior, Conditional) else None


FINEST, COARSEST = 0.1, 1.4
"""Noise between which a scale of a :class:`PyramidPrior` is denoised: what networks learn, without the lowest levels,
where the picture itself says more than the shrunk one."""


class PyramidLevel:
    """A :class:`PyramidPrior` at one noise level: what each scale knows, from fine to coarse; ``None``: nothing."""

    def __init__(self, levels: Sequence[Level | None], sigma: float):
        self.levels, self.sigma = levels, sigma

    def score(self, x: Tensor) -> Tensor:
        return self._score(x, 0)

    def _score(self, x: Tensor, scale: int) -> Tensor:
        level = self.levels[scale]
        own = -x * (2**scale / self.sigma) ** 2 if level is None else level.score(x)
        if scale + 1 == len(self.levels):
            return own
        coarse = self._score(halved(x), scale + 1) / 4  # D - x = sigma^2 score, with half the sigma
        return own + doubled(coarse - halved(own), x.shape[2:])


def halved(x: Tensor) -> Tensor:
    """The means of 2 x 2 pixels. An odd edge is paired with the line before it, so that all have half the noise."""
    h, w = x.shape[2:]
    return F.avg_pool2d(F.pad(x, (0, w % 2, 0, h % 2), mode="reflect"), 2)


def doubled(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Each pixel as 2 x 2, fewer at an edge that is odd: ``(..., *size)``."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : size[0], : size[1]]


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side: every ``tile - overlap`` pixels, the last one flush with the edge."""
    return [*range(0, side - tile, tile - overlap), side - tile]


def raised_cosine(tile: int, overlap: int, device: torch.device) -> Tensor:
    """Weights ``(tile,)`` that rise over ``overlap`` pixels and fall again; with half a tile neighbours sum to one."""
    inside = torch.arange(0.5, tile, device=device)
    rise = torch.minimum(inside, tile - inside) / max(overlap, 0.5)
    return torch.sin(math.pi / 2 * rise.clamp(max=1)).square()


def tiled(priors: Sequence[Prior], size: tuple[int, int], overlap: int | None, pyramid: bool) -> list[Prior]:
    """The ``priors``, each once, for pictures of ``(h, w)``: themselves, or in tiles."""
    if size == tuple(priors[0].shape[1:]):
        return list(priors)
    larger: type[TiledPrior | PyramidPrior] = PyramidPrior if pyramid else TiledPrior
    made = {id(prior): larger(prior, size, overlap) for prior in priors}
    return [made[id(prior)] for prior in priors]


def any_size(by: Sequence[Prior | DirectModel]) -> bool:
    """Whether they take pictures of any size."""
    return all(isinstance(one, (AnySize, AnySizeModel)) for one in by)


def sized(prior: AnySize, size: tuple[int, int]) -> Prior:
    """``prior`` for pictures of ``(h, w)``: of the whole picture, or beyond :data:`WHOLE` pixels in large tiles.

    A network costs the same for each pixel either way, and so it knows of each what lies around it.
    """
    if math.prod(size) <= WHOLE:
        return prior.sized(size)
    tile = min(size[0], LARGE_TILE), min(size[1], LARGE_TILE)
    return TiledPrior(prior.sized(tile), size, min(LARGE_OVERLAP, min(tile) // 2))


def suited(priors: Sequence[Prior], size: tuple[int, int], pyramid: bool) -> list[Prior]:
    """The ``priors`` of any size, each once, for pictures of ``(h, w)``; at every scale if ``pyramid``."""
    made: dict[int, Prior] = {id(prior): sized(prior, size) for prior in priors}  # type: ignore[arg-type]
    if pyramid and all(side >= 2 * own for side, own in zip(size, priors[0].shape[1:], strict=True)):
        made = {id(prior): PyramidPrior(prior, size) for prior in priors}
    return [made[id(prior)] for prior in priors]


def about_tiles(prior: Prior) -> dict[str, Any] | None:
    """For a record: how many tiles, how large, or ``None`` for a prior of whole pictures."""
    while isinstance(prior, Wrapper):
        prior = prior.prior
    if not isinstance(prior, (TiledPrior, PyramidPrior)):
        return None
    scales = prior.scales if isinstance(prior, PyramidPrior) else [prior]
    tiled = [scale if isinstance(scale, TiledPrior) else TiledPrior(scale, scale.shape[1:], 0) for scale in scales]
    counts = [len(scale.corners) for scale in tiled]
    count = counts if isinstance(prior, PyramidPrior) else counts[0]
    return {"count": count, "size": tiled[0].tile, "overlap": tiled[0].overlaps}


def in_words(prior: Prior) -> str:
    """How it sees its pictures, for the eye: ``"600 x 400 as a whole"``, ``"in 35 tiles of 64 x 64"``."""
    h, w = prior.shape[1:]
    about = about_tiles(prior)
    if about is None:
        return f"{w} x {h} as a whole"
    if isinstance(about["count"], list):
        return f"{w} x {h} at {len(about['count'])} scales"
    return f"{w} x {h} in {about['count']} tiles of {about['size'][1]} x {about['size'][0]}"

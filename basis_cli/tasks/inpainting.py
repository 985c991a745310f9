"""Fill in parts of pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .base import Damage, FitOption, Shape, Task, WhiteOption, as_batch, as_fit
from .library import answer

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from ..api import Prior
    from ..operators import Operator
    from ..posterior import Guided, Result, Sampling
    from .base import Picture

UNKNOWN = {
    "right": lambda row, column: column >= 0.5,
    "left": lambda row, column: column < 0.5,
    "top": lambda row, column: row < 0.5,
    "bottom": lambda row, column: row >= 0.5,
    "center": lambda row, column: ((row - 0.5).abs() < 0.25) & ((column - 0.5).abs() < 0.25),
}
"""Masks by name: what is unknown, from rows and columns in [0, 1]."""

NARROW = {"sampler": "project", "levels": 25, "sigma_max": 0.5, "sigma_min": 0.01, "overrelaxation": 0.9}
"""Defaults where every gap is :func:`narrow`, so that what is known tells nearly all that noise of 0.5 would hide."""


@dataclass(frozen=True)
class Inpainting(Damage):
    """Hide a part of test pictures, fill it in, and compare with filling in the mean colour."""

    mask: Annotated[str, typer.Option(help="A picture, white = unknown; or right, left, top, bottom, center.")] = (
        "right"
    )

    def task(self) -> Task:
        return Inpaint(self.mask)


@dataclass(frozen=True)
class Inpaint(Task):
    """Fill in the part of a picture that is missing or unwanted.

    Writes STEM.x1.png and STEM.json; what the mask leaves is kept as it is.
    """

    name, noun, damage = "inpaint", "inpainting", Inpainting
    mask: Annotated[
        str, typer.Option(help="A picture, white where the input is unknown; or right, left, top, bottom, center.")
    ]
    invert_mask: Annotated[bool, typer.Option("--invert-mask", help="Black is unknown instead.")] = False
    fit: FitOption = None
    white_level: WhiteOption = None

    def operator(self, shape: Shape) -> Operator:
        from ..operators import Mask

        return Mask(self.known(shape))

    def known(self, shape: Shape) -> Tensor:
        """``(1, h, w)``, true where the mask leaves pictures of ``shape`` as they are."""
        missing = unknown(self.mask, shape[1:], self.fit)
        return missing if self.invert_mask else ~missing

    def posterior(self, priors: Sequence[Prior], sampling: Sampling) -> Guided:
        """``p(x | y)``, by :data:`NARROW` if all gaps are narrow."""
        import torch

        from ..posterior import conditioned

        operator = self.operator(priors[0].shape)
        known = operator(torch.ones(1, 1, *priors[0].shape))[0, :1] > 0
        return conditioned(priors, operator, sampling, NARROW if narrow(known) else self.defaults, self.conditional)

    def observed(self, pictures: Tensor, operator: Operator) -> Tensor:
        return operator(pictures[None])

    def measurable(self, picture: Tensor) -> Tensor:
        return picture.where(self.known(picture.shape), math.nan)  # type: ignore[arg-type]

    def opacity(self, seen: np.ndarray, shape: Shape) -> np.ndarray:
        """What is filled in is opaque."""
        return seen.clip(~self.known(shape).numpy(), 1)

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """The mean colour of what is known."""
        known = self.known(shape)
        return y.where(known, y.sum((2, 3), keepdim=True) / known.sum())

    def about(self) -> dict[str, Any]:
        return {"mask": self.mask}


@dataclass(frozen=True, eq=False)
class Masked(Inpaint):
    """With a mask that is no file."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # what it holds cannot be compared

    missing: Tensor | None = None

    def known(self, shape: Shape) -> Tensor:
        assert self.missing is not None
        return ~(as_batch(self.missing, (1, *shape[1:]), None)[0] > 0.5)


def inpaint(
    pictures: Picture | Sequence[Picture],
    mask: Picture,
    *,
    fit: str | None = None,
    white_level: float | None = None,
    **options: Any,
) -> Result:
    """Fill in what ``mask`` marks: one for all pictures, more than one half where they are unknown.

    It is a file, a name in :data:`UNKNOWN`, or ``(1, h, w)``. ``options`` are those of
    :func:`basis_cli.tasks.library.answer`.
    """
    by_name = isinstance(mask, (str, os.PathLike))
    read: dict[str, Any] = {"fit": as_fit(fit), "white_level": white_level}
    task = Inpaint(str(mask), **read) if by_name else Masked("given", missing=mask, **read)  # type: ignore[arg-type]
    return answer(task, pictures, **options)


def narrow(known: Tensor, reach: int = 3) -> bool:
    """Whether 99 % of what is not ``known`` ``(1, h, w)`` is within ``reach`` pixels of what is: scratches, dust."""
    import torch.nn.functional as F

    near = F.max_pool2d(known.float(), 2 * reach + 1, stride=1, padding=reach) > 0
    return bool((~near).sum() <= 0.01 * (~known).sum())


def unknown(mask: str | Path, size: tuple[int, int], fit: str | None = None) -> Tensor:
    """``(1, h, w)``, true where a picture is unknown: a name in :data:`UNKNOWN`, or a file that is white there.

    Of a picture with opacity whose colours mark nothing, or everything, the opacity is taken.

    Raises:
        InputError: the file cannot be read, has another size than ``(h, w)``, or marks nothing.
    """
    import torch

    from ..data import images

    h, w = size
    if str(mask) in UNKNOWN:
        row, column = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        return UNKNOWN[str(mask)](row, column)[None]
    marked = torch.tensor(images.mask(mask, (h, w), fit)) > 0.5
    if not marked.any():
        raise InputError(f"{mask} marks nothing: no pixel is more than half white", "white is unknown")
    return marked


TASKS = (Inpaint,)

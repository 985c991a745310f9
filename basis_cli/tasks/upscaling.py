"""Enlarge pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .base import Damage, FitOption, Shape, Task, WhiteOption, as_fit
from .library import answer

if TYPE_CHECKING:
    from torch import Tensor

    from ..operators import Operator
    from ..posterior import Result
    from .base import Picture


@dataclass(frozen=True)
class Upscaling(Damage):
    """Shrink test pictures, enlarge them, and compare with bicubic interpolation."""

    factor: Annotated[int, typer.Option(min=2, help="How many times smaller.")] = 4
    bicubic: Annotated[bool, typer.Option("--bicubic", help="Shrink with a bicubic filter, not by averaging.")] = False

    def task(self) -> Task:
        return Upscale(self.factor, self.bicubic)


@dataclass(frozen=True)
class Upscale(Task):
    """Enlarge a small picture to the size that the prior models.

    The answer gives the input when it is shrunk again. Writes STEM.x1.png and STEM.json.
    """

    name, noun, damage = "upscale", "upscaling", Upscaling
    defaults = {"sampler": "project", "levels": 25, "overrelaxation": 0.9}  # noqa: RUF012
    factor: Annotated[int, typer.Option(min=2, help="How many times larger: 2, 4, 8, 16.")]
    bicubic: Annotated[
        bool, typer.Option("--bicubic", help="The picture was shrunk with a bicubic filter, not by averaging.")
    ] = False
    fit: FitOption = None
    white_level: WhiteOption = None

    @property
    def method(self) -> str:
        return "bicubic" if self.bicubic else "box"

    def operator(self, shape: Shape) -> Operator:
        from ..operators import Downsample

        return Downsample(self.factor, shape[1:], self.method)

    def seen(self, shape: Shape) -> Shape:
        c, h, w = shape
        return c, -(-h // self.factor), -(-w // self.factor)

    def size(self, seen: tuple[int, int]) -> tuple[int, int]:
        return self.factor * seen[0], self.factor * seen[1]

    def check(self, shape: Shape, larger: bool = False) -> None:
        if not larger:
            self.operator(shape)

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Bicubic interpolation."""
        import torch.nn.functional as F

        return F.interpolate(y, shape[1:], mode="bicubic", align_corners=False).clamp(0, 1)

    def about(self) -> dict[str, Any]:
        return {"factor": self.factor, "method": self.method}


def upscale(
    pictures: Picture | Sequence[Picture],
    factor: int,
    *,
    method: str = "box",
    fit: str | None = None,
    white_level: float | None = None,
    **options: Any,
) -> Result:
    """Enlarge pictures ``factor`` times, to the prior's size; they were shrunk by ``method``, ``box`` or ``bicubic``.

    ``options`` are those of :func:`basis_cli.tasks.library.answer`.

    Raises:
        UsageError: another method, or ``factor`` does not divide the prior's size.
    """
    from ..operators import Downsample

    Downsample(1, (1, 1), method)  # whether there is such a method
    return answer(Upscale(factor, method == "bicubic", as_fit(fit), white_level), pictures, **options)


TASKS = (Upscale,)

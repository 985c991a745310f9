"""Colour gray pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .base import Damage, FitOption, Shape, Task, WhiteOption, as_fit
from .library import answer

if TYPE_CHECKING:
    from torch import Tensor

    from ..operators import Operator
    from ..posterior import Result
    from .base import Picture


class GrayOf(str, Enum):
    """How a picture in colour becomes gray."""

    luma = "luma"
    mean = "mean"


@dataclass(frozen=True)
class Colorization(Damage):
    """Make test pictures gray, colour them, and compare them with the gray ones (Table 4).

    The gray is the mean of the three channels, as in the paper.
    """

    def task(self) -> Task:
        return Colorize(GrayOf.mean)


@dataclass(frozen=True)
class Colorize(Task):
    """Colour a gray picture. A coloured one is made gray first. Writes STEM.x1.png and STEM.json."""

    name, noun, damage, colours, model = "colorize", "colorization", Colorization, True, "cinn-colour"
    conditional = {}  # noqa: RUF012
    weighting: Annotated[
        GrayOf,
        typer.Option(
            "--gray", help="luma: .299 R + .587 G + .114 B, as cameras and programs make it; mean: as in the paper."
        ),
    ] = GrayOf.luma
    fit: FitOption = None
    white_level: WhiteOption = None

    def weights(self, channels: int) -> tuple[float, ...]:
        """Of the channels in the gray."""
        from ..operators import LUMA

        return LUMA if self.weighting == GrayOf.luma and channels == 3 else (1 / channels,) * channels

    def operator(self, shape: Shape) -> Operator:
        from ..operators import Gray

        return Gray(self.weights(shape[0]))

    def check(self, shape: Shape, larger: bool = False) -> None:
        if shape[0] != 3:
            raise UsageError(f"the prior models {shape[0]} channels, not 3", "choose a prior of colour pictures")

    def observed(self, pictures: Tensor, operator: Operator) -> Tensor:
        return operator(pictures[None])

    def measurable(self, picture: Tensor) -> Tensor:
        return self.observed(picture[None], self.operator(picture.shape))[0]  # type: ignore[arg-type]

    def baseline(self, y: Tensor, shape: Shape) -> Tensor:
        """Gray, as they are."""
        return y.expand(-1, shape[0], -1, -1)


@dataclass(frozen=True)
class Weighted(Colorize):
    """With weights of the channels of one's own."""

    channel_weights: tuple[float, ...] = ()

    def weights(self, channels: int) -> tuple[float, ...]:
        if channels != len(self.channel_weights):
            hint = "choose a prior of colour pictures"
            raise UsageError(f"the prior models {channels} channels, not {len(self.channel_weights)}", hint)
        return self.channel_weights


def colorize(
    pictures: Picture | Sequence[Picture],
    *,
    channel_weights: Sequence[float] = (0.299, 0.587, 0.114),
    fit: str | None = None,
    white_level: float | None = None,
    **options: Any,
) -> Result:
    """Colour gray pictures: ``y`` is their luma, or weighted otherwise (section 5.3 of the paper: all a third).

    Coloured pictures are made gray first; arrays may have one channel. ``options`` are those of
    :func:`basis_cli.tasks.library.answer`.
    """
    task = Weighted(fit=as_fit(fit), white_level=white_level, channel_weights=tuple(channel_weights))
    return answer(task, pictures, **options)


TASKS = (Colorize,)

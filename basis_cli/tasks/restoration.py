"""Restore what any operator took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .base import Shape, Task
from .library import answer

if TYPE_CHECKING:
    from torch import Tensor

    from ..operators import Operator
    from ..posterior import Result


@dataclass(frozen=True, eq=False)
class Restore(Task):
    """What one operator made, whichever it is."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # what it holds cannot be compared

    by: Operator
    answer_size: tuple[int, int] | None = None
    name, noun = "restore", "restoration"

    def operator(self, shape: Shape) -> Operator:
        return self.by

    def given(self, pictures: Any, shape: Shape, larger: bool) -> Tensor:
        return pictures

    def size(self, seen: tuple[int, int]) -> tuple[int, int]:
        return self.answer_size or seen

    def gray(self, picture: Any) -> bool:
        return False


def restore(
    y: Tensor,
    operator: Operator,
    *,
    size: tuple[int, int] | None = None,
    references: Any = None,
    **options: Any,
) -> Result:
    """Draw the pictures that ``operator`` made ``y`` of from ``p(x | y)``, for operators without a task of their own.

    Args:
        y: what was observed, ``(n, ...)``, as ``operator`` makes it of ``(1, n, c, h, w)`` pictures in [0, 1].
        operator: one of :mod:`basis_cli.operators` for one picture, or your own.
        size: ``(h, w)`` of the pictures, for a prior of any size; by default that of ``y``.
        references: the true pictures, one for each of ``y``, if known.
        options: those of :func:`basis_cli.tasks.library.answer`.
    """
    from ..operators import Jpeg
    from .decompression import Given

    task = Given(operator) if isinstance(operator, Jpeg) else Restore(operator, size)
    return answer(task, y, references=references, **options)

"""Paint pictures from layouts: ``basis paint``. Importing this does not import torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basis_cli.api import Task, UsageError

from .classes import CLASSES

if TYPE_CHECKING:
    from torch import Tensor


class Seen:
    """A layout says nothing of single pixels: there is no forward operator, so a residual is not a number."""

    k, scale = 1, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return x[0] * float("nan")


@dataclass(frozen=True)
class Paint(Task):
    """Paint a picture from a layout, a map of which class every pixel is of.

    A layout is a PNG of gray levels or palette numbers from 0 to 9, or of the colours of the classes. Only a model
    paints. Writes STEM.x1.png and STEM.json.
    """

    name, noun, model, guided, palette = "paint", "painting", "imle-layout", False, CLASSES

    def operator(self, shape: tuple[int, int, int]) -> Any:
        return Seen()

    def posterior(self, priors: Sequence[Any], sampling: Any) -> Any:
        raise UsageError("no prior paints layouts", f"--model {self.model}")

    def read(self, source: Path | str, shape: tuple[int, int, int], larger: bool = False) -> Any:
        """The layout in its classes' colours."""
        from . import layouts

        task, stored = super().read(source, shape, larger)
        classes = layouts.read(source) if os.path.isfile(source) else layouts.classes_of(stored.pixels, str(source))
        return task, stored._replace(pixels=layouts.drawn(classes), opacity=None)

    def given(self, pictures: Any, shape: tuple[int, int, int], larger: bool) -> Tensor:
        """The same, of files; arrays are class numbers ``(n, h, w)``, or already ``(n, 3, h, w)`` in colours."""
        import numpy as np
        import torch

        from . import layouts

        if isinstance(pictures, (str, os.PathLike)):
            pictures = [pictures]
        if isinstance(pictures, Sequence) and all(isinstance(one, (str, os.PathLike)) for one in pictures):
            pictures = np.stack([layouts.read(Path(one)) for one in pictures])
        found = np.asarray(pictures)
        if found.ndim == 2 or (found.ndim == 3 and found.shape[0] != 3):
            found = np.stack([layouts.drawn(one) for one in found.reshape(-1, *found.shape[-2:])])
        return super().given(torch.from_numpy(found), shape, larger)

    def baseline(self, y: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The layout itself."""
        return y


def paint(layouts: Any, **options: Any) -> Any:
    """Paint ``layouts``: one or several files, or class numbers ``(n, h, w)``.

    ``options`` are those of :func:`basis_cli.tasks.library.answer`.

    Raises:
        InputError: a file cannot be read, or has colours that are no classes.
        and what the other tasks raise.
    """
    from basis_cli.api import tasks

    return tasks.answer(Paint(), layouts, **options)


TASKS = (Paint,)

"""Several mixtures of the same pictures, taken apart together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .base import Shape, Task
from .separation import Mixing, Separate, numbers

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from ..api import Prior
    from ..data.images import Stored
    from ..operators import Updating
    from ..posterior import Guided, Sampling
    from .base import Picture


@dataclass(frozen=True)
class Together(Separate):
    """Several mixtures of the same pictures, each by a row of coefficients of its own."""

    observations: int = 2
    others: tuple[str, ...] = ()

    @property
    def beside(self) -> tuple[str, ...]:
        return self.others

    @property
    def matrix(self) -> list[list[float]]:
        """A row of ``k`` coefficients for each observation; equal ones if they are not known.

        Raises:
            UsageError: other rows, or none; another way of mixing; fewer observations than unknown components.
        """
        hint = "--alpha '0.65,0.35;0.4,0.6', a row for each input, or auto"
        if self.mixing is not Mixing.mean:
            raise UsageError("mixtures separated together are weighted sums", f"not --mixing {self.mixing.value}")
        if self.blur:
            raise UsageError("mixtures separated together are of pictures in focus", "leave out --blur")
        if self.alpha is None:
            raise UsageError("mixtures separated together need their coefficients", hint)
        if self.unknown:
            if self.observations < self.k:
                raise UsageError(f"{self.observations} mixtures do not tell the coefficients of {self.k}", hint)
            return [[1 / self.k] * self.k] * self.observations
        rows = [numbers(row, "--alpha") or [] for row in self.alpha.split(";")]
        if len(rows) != self.observations or any(len(row) != self.k for row in rows):
            found = " and ".join(str(len(row)) for row in rows)
            raise UsageError(f"{found} coefficients for {self.observations} mixtures of {self.k} components", hint)
        return rows

    @property
    def cut(self) -> bool:
        return False

    def operator(self, shape: Shape) -> Updating:
        from ..operators import Mixtures, UnknownMixtures

        return (UnknownMixtures if self.unknown else Mixtures)(self.matrix)

    def posterior(self, priors: Sequence[Prior], sampling: Sampling) -> Guided:
        from ..posterior.blind import FITTING

        if self.unknown and (sampler := sampling.over(self.defaults).sampler) not in FITTING:
            raise UsageError(f"the sampler {sampler!r} fits no coefficients", "--sampler ep, or give --alpha")
        return Task.posterior(self, priors, sampling)

    def read(self, source: Path | str, shape: Shape, larger: bool = False) -> tuple[Task, Stored]:
        """All files, one after the other in the channels."""
        import numpy as np

        from ..data import images

        first = images.load(source, shape, self.fit, larger, white_level=self.white_level)
        same: Shape = first.pixels.shape  # type: ignore[assignment]
        others = [images.read(file, same, self.fit, False, self.white_level) for file in self.beside]
        return self, first._replace(pixels=np.concatenate([first.pixels, *others]))

    def given(self, pictures: Picture | Sequence[Picture], shape: Shape, larger: bool) -> Tensor:
        import torch

        each = [super(Together, self).given(picture, shape, larger) for picture in list(pictures)]  # type: ignore[arg-type]
        if len({tuple(one.shape) for one in each}) != 1:
            raise UsageError("mixtures separated together must be of one size, as many of each")
        return torch.cat(each, dim=1)

    def cause(self, *given: Any) -> str | None:
        return None

    def gray(self, picture: np.ndarray | Tensor) -> bool:
        each = len(picture) // self.observations
        return all(super(Together, self).gray(picture[i : i + each]) for i in range(0, len(picture), each))

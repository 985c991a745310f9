"""``p(x | y)`` by a network that was trained to answer one operator."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..api import DirectModel, Tractable
from ..compute import compile_networks
from ..errors import UsageError
from ..operators import Operator
from ..samplers import Progress, Watch, check_finite, unwatched
from .memory import CPU_PIXELS, CUDA_PICTURES
from .resume import SavedState


class Direct:
    """The posterior of ``operator``'s one picture as ``model`` has learned it: one evaluation a sample."""

    exact = False
    """What the model answers is left as it is: it need not agree with the observation."""

    def __init__(self, model: DirectModel, operator: Operator, name: str = ""):
        self.model, self.operator, self.name = model, operator, name
        self.shape = model.shape

    @property
    def kinds(self) -> list[Hashable]:
        """There is one component."""
        return [0]

    def sample(
        self, y: Tensor, seeds: Sequence[int], *, watch: Watch = unwatched, saved: SavedState | None = None
    ) -> Tensor:
        """As :meth:`basis_cli.posterior.guided.Guided.sample`."""
        if saved:
            raise UsageError("a direct model answers in one pass, which cannot be resumed", "leave out --resume")
        x = self.model.sample(y, seeds)[None]
        watch(Progress(0, 1, 0, 1, 0.0, x))
        check_finite(x, 0.0)
        return x

    def evaluations(self, pictures: int) -> float:
        """One for each picture."""
        return 1.0

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """``log p(x | y)`` in nats, ``(n,)``, where the model knows it, else 0: samples stay in the order drawn."""
        return self.model.log_prob(x[0], y) if isinstance(self.model, Tractable) else x.new_zeros(x.shape[1])

    def log_prob(self, x: Tensor) -> Tensor | None:
        """A direct model has no prior."""
        return None

    def batch_size(self, count: int, device: torch.device) -> int:
        """How many of ``count`` pictures to work on at once."""
        pixels = self.shape[1] * self.shape[2]
        return min(count, max(1, CPU_PIXELS // pixels) if device.type == "cpu" else CUDA_PICTURES)

    def compile(self) -> None:
        """``torch.compile`` the model's network."""
        compile_networks([self.model])

    def described(self) -> dict[str, Any]:
        """Every setting, for a record."""
        return {"model": self.name}

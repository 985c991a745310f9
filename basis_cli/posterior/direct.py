"""``p(x | y)`` by a network that was trained to answer one operator."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..api import DirectModel, OwnPrecision, Tractable
from ..compute import compile_networks
from ..errors import UsageError
from ..operators import Operator
from ..priors import contract
from ..samplers import Progress, Watch, check_finite, unwatched
from .memory import CPU_PIXELS, CUDA_PICTURES
from .resume import SavedState
from .settings import Sampling


class Direct:
    """The posterior of ``operator``'s one picture as ``model`` has learned it: one evaluation a sample.

    Of ``sampling`` it takes the seed and the temperature.

    Raises:
        UsageError: something else is set, or a temperature that the model does not have or that is not above 0.
    """

    exact = True
    """What the model answers is moved to the nearest picture that agrees with the observation, where the operator can
    tell: the truth agrees, so none is farther from it afterwards."""

    def __init__(self, model: DirectModel, operator: Operator, name: str = "", sampling: Sampling | None = None):
        self.model, self.operator, self.name = model, operator, name
        self.shape, self.sampling = model.shape, sampling or Sampling()
        temperature = self.sampling.of_model()
        self.options: dict[str, float] = {}
        if "temperature" in (takes := inspect.signature(model.sample).parameters):
            self.options["temperature"] = takes["temperature"].default if temperature is None else temperature
        elif temperature is not None:
            raise UsageError(f"the model {name or type(model).__name__} has no temperature", "leave out --temperature")
        if temperature is not None and not temperature > 0:
            raise UsageError(f"temperature must be greater than 0, not {temperature}")

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
        what = f"the model {self.name or contract.called(self.model)}"
        with contract.blamed(what):
            x = self.model.sample(y, seeds, **self.options)
        x = contract.checked(x, (len(y), *self.shape), y.device, f"the answer of {what}")[None]
        watch(Progress(0, 1, 0, 1, 0.0, x))
        check_finite(x, 0.0)
        return x

    def evaluations(self, pictures: int) -> float:
        """One for each picture."""
        return 1.0

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """``log p(x | y)`` in nats, ``(n,)``, where the model knows it, else 0: samples stay in the order drawn."""
        if not isinstance(self.model, Tractable):
            return x.new_zeros(x.shape[1])
        what = f"the log-likelihood of the model {self.name or contract.called(self.model)}"
        with contract.blamed(what):
            found = self.model.log_prob(x[0], y)
        return contract.checked(found, (len(y),), y.device, what)

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
        dtype = {"dtype": self.model.dtype} if isinstance(self.model, OwnPrecision) else {}
        return {"model": self.name, "seed": self.sampling.seed} | self.options | dtype

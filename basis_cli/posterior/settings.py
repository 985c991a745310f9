"""How to sample."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from .. import plugins, samplers
from ..api import Prior
from ..errors import BasisError, UsageError
from ..operators import noise_std
from ..priors import contract
from ..priors.wrapper import halvings

AUTO = "auto"
NOISY = {"overrelaxation": 0.9}
"""What restores noisy pictures best: answers are means of their mode, as far as noise leaves any choice."""


@dataclass(frozen=True)
class Sampling:
    """How to sample; the same for every task. ``None`` leaves the sampler's own default."""

    sampler: str | None = None
    """See docs/concepts/samplers.md. Default: the task's."""
    levels: int | None = None
    """Noise levels on the sampler's kind of ladder. Default: the task's, else for Langevin dynamics the prior's own,
    else the sampler's. A pyramid adds some above them for its coarser scales."""
    sigma_max: float | None = None
    """Highest noise level. Default: the task's, else the sampler's; for a pyramid twice as high for every halving."""
    sigma_min: float | None = None
    """Lowest noise level. Default: the task's, else the sampler's."""
    steps: int | None = None
    """Steps a level (the paper's T = 100)."""
    step_size: float | None = None
    """The paper's delta = 2e-5."""
    temperature: float | None = None
    """What Langevin dynamics multiplies the variance of its noise with. Default: 1, the posterior's."""
    noise_std: float | str | None = None
    """Standard deviation of white noise in the observation, in intensities; ``auto``: measured in each picture
    (:func:`basis_cli.operators.noise_std`). Default: none."""
    overrelaxation: float | None = None
    """How much of the old noise is negated and used again at the next level, 0 to 1: likelier answers that differ less.
    Default: the sampler's."""
    seed: int = 0

    def over(self, defaults: Mapping[str, Any]) -> Sampling:
        """The same, with a task's ``defaults`` for what is ``None`` here, unless another sampler than theirs is chosen.

        With noise in the observation ``project`` takes overrelaxation, :data:`NOISY`, whatever the task.
        """
        defaults = {"sampler": "project"} | dict(defaults)
        if isinstance(self.noise_std, float) and defaults["sampler"] == "project":
            defaults |= NOISY
        if self.sampler not in (None, defaults["sampler"]):
            return self
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    def measured(self, picture: Tensor) -> Sampling:
        """The same, for a ``picture`` ``(c, h, w)``: with its own noise if ``noise_std`` is ``auto``.

        Raises:
            UsageError: another word.
        """
        if not isinstance(self.noise_std, str):
            return self
        if self.noise_std != AUTO:
            raise UsageError(f"noise_std is a number or {AUTO}, not {self.noise_std!r}")
        return replace(self, noise_std=noise_std(picture) or None)

    @property
    def timid(self) -> bool:
        """Whether samples are too sure of themselves: less apart than the posterior's.

        Raises:
            UnknownPriorError: no such sampler.
        """
        spec = plugins.sampler_spec(str(self.sampler))
        return (self.temperature is not None and self.temperature < 1) or (spec.guided and not spec.calibrated)

    def of_model(self) -> float | None:
        """The temperature, all that a direct model takes of this beside the seed.

        Raises:
            UsageError: something else is set.
        """
        if self != Sampling(seed=self.seed, temperature=self.temperature):
            raise UsageError("a direct model has no prior and no sampler", "leave out their options, or --model")
        return self.temperature

    def options(self, priors: Sequence[Prior]) -> dict[str, Any]:
        """Keyword arguments for the sampler.

        Raises:
            UsageError: a value out of range, or an option that this sampler does not have.
        """
        if self.sampler is None:
            raise UsageError("no sampler was chosen")
        for name in ("levels", "sigma_max", "sigma_min", "steps", "step_size", "temperature", "noise_std"):
            value = getattr(self, name)
            if value not in (None, AUTO) and not value > 0:
                raise UsageError(f"{name} must be greater than 0, not {value}")
        spec = plugins.sampler_spec(self.sampler)
        ladder, draw = plugins.resolve(spec.ladder), plugins.resolve(spec.draw)
        fixed = getattr(draw, "keywords", {})  # of a partial application
        takes = {name: p for name, p in inspect.signature(draw).parameters.items() if name not in fixed}
        if "sigmas" in takes and not isinstance(takes["sigmas"].default, (tuple, list)):
            raise BasisError(f"the sampler {self.sampler!r} has no noise levels by default", contract.REPORT)
        given: dict[str, Any] = {}
        own = next((p.sigmas for p in priors if p.sigmas is not None), None) if ladder is samplers.geometric else None
        given_ends = {"high": self.sigma_max, "low": self.sigma_min}
        ends = {name: sigma for name, sigma in given_ends.items() if sigma is not None}
        if self.levels is not None or ends:
            if "sigmas" not in takes:
                raise UsageError(f"the sampler {self.sampler!r} has no noise levels")
            with contract.blamed(f"the noise levels of the sampler {self.sampler!r}"):
                given["sigmas"] = tuple(ladder(self.levels or len(own or takes["sigmas"].default), **ends))
            if given["sigmas"][0] < given["sigmas"][-1]:
                raise UsageError("the highest noise level is below the lowest", "--sigma-max, --sigma-min")
        elif own and "sigmas" in takes:
            given["sigmas"] = own
        octaves = halvings(priors)
        if octaves and self.sigma_max is None and "sigmas" in takes:
            given["sigmas"] = samplers.from_coarse(given.get("sigmas", takes["sigmas"].default), octaves)
        for name in ("steps", "step_size", "temperature", "noise_std", "overrelaxation"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        for name in sorted(set(given) - set(takes)):
            raise UsageError(f"the sampler {self.sampler!r} has no option {name!r}")
        with contract.blamed(f"the sampler {self.sampler!r}"):
            inspect.signature(draw).bind(priors, None, None, seeds=(), watch=None, **given)
        return given

    def sigmas(self, priors: Sequence[Prior]) -> tuple[float, ...]:
        """The noise levels, high to low; of a sampler that has none, the paper's."""
        takes = inspect.signature(plugins.sampler(str(self.sampler))).parameters
        default = takes["sigmas"].default if "sigmas" in takes else samplers.PAPER_SIGMAS
        return tuple(self.options(priors).get("sigmas", default))

    def described(self, priors: Sequence[Prior]) -> dict[str, Any]:
        """Every setting as it is used, for a record: the sampler's own where none was given."""
        takes = inspect.signature(plugins.sampler(str(self.sampler))).parameters
        defaults = {name: p.default for name, p in takes.items() if isinstance(p.default, (int, float, tuple))}
        used = defaults | self.options(priors)
        if sigmas := used.get("sigmas"):
            used |= {"levels": len(sigmas), "sigma_max": sigmas[0], "sigma_min": sigmas[-1]}
        return asdict(self) | used

"""Samplers: plain functions that draw ``x ~ p(x | y)`` from priors and an operator.

A module of this package that defines ``SAMPLERS``, its :class:`basis_cli.api.SamplerSpec` objects, offers them by name.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from ..api import SamplerSpec
from .algorithm1 import ascent as ascent
from .algorithm1 import langevin as langevin
from .base import Descent as Descent
from .base import Progress as Progress
from .base import Watch as Watch
from .base import begun_at as begun_at
from .base import check_finite as check_finite
from .base import descend as descend
from .base import joint_denoiser as joint_denoiser
from .base import joint_score as joint_score
from .base import unwatched as unwatched
from .base import weighted as weighted
from .conditional import conditional as conditional
from .denoising import conjugate as conjugate
from .denoising import ep as ep
from .denoising import mmps as mmps
from .denoising import project as project
from .noise import PerImageNoise as PerImageNoise
from .noise import image_seed as image_seed
from .noise import picture_seeds as picture_seeds
from .schedules import PAPER_SIGMAS as PAPER_SIGMAS
from .schedules import from_coarse as from_coarse
from .schedules import geometric as geometric
from .schedules import karras as karras
from .schedules import linear as linear
from .schedules import wide as wide


@cache
def built_in() -> dict[str, SamplerSpec]:
    """This package's own samplers, by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {spec.name: spec for module in modules for spec in getattr(module, "SAMPLERS", ())}

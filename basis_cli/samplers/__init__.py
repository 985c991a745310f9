"""Samplers: plain functions that draw ``x ~ p(x | y)`` from priors and an operator."""

from __future__ import annotations

from .base import Descent as Descent
from .base import check_finite as check_finite
from .base import descend as descend
from .base import halvings as halvings
from .base import joint_denoiser as joint_denoiser
from .base import joint_score as joint_score
from .base import no_callback as no_callback
from .base import weighted as weighted
from .denoising import conjugate as conjugate
from .denoising import ep as ep
from .denoising import mmps as mmps
from .denoising import project as project
from .langevin import ascent as ascent
from .langevin import langevin as langevin
from .schedules import PAPER_SIGMAS as PAPER_SIGMAS
from .schedules import from_coarse as from_coarse
from .schedules import geometric as geometric
from .schedules import karras as karras
from .schedules import linear as linear

LADDERS = {"project": karras, "conjugate": karras, "mmps": karras, "ep": linear}
"""The kind of ladder that a sampler takes by name; :func:`geometric` unless stated here."""
TOO_SURE = ("project", "conjugate", "ep")
"""Samplers whose samples spread less than the posterior; docs/samplers.md says by how much."""

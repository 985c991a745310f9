"""Priors of pictures of which a part is known (:class:`basis_cli.api.Conditional`)."""

from __future__ import annotations

from collections.abc import Sequence

from ..api import Conditional, Prior
from ..operators import LinearOperator
from .wrapper import Wrapper


class Given(Wrapper):
    """``prior`` of pictures of which a part is known, so that noise lies only in the rest.

    What :func:`given` returns, so that no sampler with white noise takes it for the prior of ``whole`` pictures.
    """

    def __init__(self, prior: Prior, whole: Prior):
        super().__init__(prior)
        self.whole = whole
        self.sigma_max: float | None = getattr(prior, "sigma_max", None)
        """The highest level that it has learned, if it says so."""


def given(priors: Sequence[Prior], operator: object) -> list[Given] | None:
    """The ``priors`` of what ``operator`` leaves open, if all have learned that; else ``None``."""
    if not isinstance(operator, LinearOperator) or not all(isinstance(prior, Conditional) for prior in priors):
        return None
    known = {id(prior): (prior.given(operator), prior) for prior in priors}  # type: ignore[attr-defined]
    if any(prior is None for prior, _ in known.values()):
        return None
    made = {key: Given(*both) for key, both in known.items()}
    return [made[id(prior)] for prior in priors]


def is_given(prior: Prior) -> bool:
    """Whether noise lies only in a part of the pictures of ``prior``."""
    while isinstance(prior, Wrapper):
        if isinstance(prior, Given):
            return True
        prior = prior.prior
    return False


def whole(prior: Prior) -> Prior:
    """The prior of whole pictures behind one of :func:`given`; others as they are."""
    return prior.whole if isinstance(prior, Given) else prior

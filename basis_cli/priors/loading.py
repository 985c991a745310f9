"""From a prior's name to a prior on a device."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .. import weights
from ..api import DirectModel, PosteriorSpec, Prior, PriorSpec
from ..compute import choose_device
from ..errors import BasisError, UsageError
from ..plugins import posterior_spec, prior_spec, resolve


def load_prior(name: str, *, weights_path: Path | None = None, device: torch.device | str = "auto") -> Prior:
    """The prior called ``name`` (or ``plugin/name``) on ``device``, with its weights verified.

    Raises:
        UnknownPriorError: no plugin offers it.
        WeightsError: its weights are missing, corrupted or do not fit.
        BasisError: its plugin failed, or returned something that is no prior.
    """
    return _loaded("prior", prior_spec(name), "at", weights_path, device)  # type: ignore[no-any-return]


def load_model(
    name: str, verb: str, weights_path: Path | None = None, device: torch.device | str = "auto"
) -> DirectModel:
    """The direct model called ``name`` on ``device``, for the task called ``verb``.

    Raises:
        UsageError: it answers another task.
        and what :func:`load_prior` raises.
    """
    spec = posterior_spec(name)
    if spec.task != verb:
        raise UsageError(f"the model {name!r} is for `basis {spec.task}`, not for `basis {verb}`", "leave out --model")
    return _loaded("model", spec, "sample", weights_path, device)  # type: ignore[no-any-return]


def _loaded(
    kind: str, spec: PriorSpec | PosteriorSpec, method: str, weights_path: Path | None, device: torch.device | str
) -> Any:
    """What the ``spec`` loads, once it is seen to have ``method`` and the shape that the spec states."""
    where = choose_device(device) if isinstance(device, str) else device
    path = weights.of(spec, weights_path)
    try:
        loaded = resolve(spec.load)(spec, path, where)
    except BasisError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may even call sys.exit
        reason = f"{kind} {spec.name!r} failed to load: {type(error).__name__}: {error}"
        raise BasisError(reason, "report it to its plugin's author") from error
    shape, of_spec = getattr(loaded, "shape", None), tuple(spec.shape or ("channels", "height", "width"))
    wrong = [] if callable(getattr(loaded, method, None)) else [f".{method}()"]
    if not _is_shape(shape) or (spec.shape and tuple(shape) != of_spec):  # type: ignore[arg-type]
        wrong.append(f".shape == {of_spec}")
    if kind == "prior" and not _are_sigmas(getattr(loaded, "sigmas", ())):
        wrong.append(".sigmas, noise levels from high to low, or None for any")
    if wrong:
        reason = f"{kind} {spec.name!r} is not usable: its plugin returned {type(loaded).__name__}"
        raise BasisError(reason, f"it must have {' and '.join(wrong)}")
    return loaded


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and len(shape) == 3 and all(isinstance(s, int) and s > 0 for s in shape)


def _are_sigmas(sigmas: Any) -> bool:
    if not isinstance(sigmas, (tuple, list)) or not all(isinstance(s, (int, float)) for s in sigmas):
        return sigmas is None
    return bool(sigmas) and all(0 < low < high for high, low in pairwise((math.inf, *sigmas)))

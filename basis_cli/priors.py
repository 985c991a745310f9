"""From a prior's name to a prior on a device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from . import weights
from .api import Prior
from .errors import BasisError, UsageError
from .plugins import prior_spec, resolve


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; anything else is taken at its word.

    Raises:
        UsageError: not a device, or CUDA asked for and not there (never silently the CPU).
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device is called {name!r}", "use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported", "use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"{name} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices", "--device cpu"
        )
    return device


def precision(device: torch.device, dtype: str) -> torch.autocast:
    """A context in which networks compute in ``dtype``: ``float32``, ``bfloat16``, or ``auto``, bfloat16 on CUDA.

    This is also the one place that decides about TF32, which CUDA may use for float32 convolutions and matrix products:
    never with ``float32``, which promises 24 bits; otherwise yes, as bfloat16 has fewer bits still. torch knows no such
    setting but for the whole process.

    Raises:
        UsageError: another name.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"dtype {dtype!r} is not known", "auto, float32 or bfloat16")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype != "float32"
    half = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def compile_networks(priors: Iterable[Prior]) -> None:
    """``torch.compile`` every prior's network, through its optional ``compile`` method (see :class:`Prior`).

    Raises:
        UsageError: a prior without that method.
    """
    for prior in {id(prior): prior for prior in priors}.values():
        compile_network = getattr(prior, "compile", None)
        if not callable(compile_network):
            raise UsageError(f"{type(prior).__name__} has no network to compile", "leave out --compile")
        compile_network()


def load_prior(name: str, *, weights_path: Path | None = None, device: torch.device | str = "auto") -> Prior:
    """The prior called ``name`` (or ``plugin/name``) on ``device``, with its weights verified.

    Raises:
        UnknownPriorError: no plugin offers it.
        WeightsError: its weights are missing, corrupted or do not fit.
        BasisError: its plugin failed, or returned something that is no prior.
    """
    spec = prior_spec(name)
    where = choose_device(device) if isinstance(device, str) else device
    path = weights.find(spec.weights, weights_path) if spec.weights else weights_path
    try:
        prior = resolve(spec.load)(spec, path, where)
    except BasisError:
        raise
    except Exception as error:
        raise BasisError(
            f"prior {name!r} failed to load: {type(error).__name__}: {error}", "report it to its plugin's author"
        ) from error
    shape = tuple(getattr(prior, "shape", ()))
    if not callable(getattr(prior, "at", None)) or len(shape) != 3 or shape != tuple(spec.shape or shape):
        raise BasisError(
            f"prior {name!r} is not usable: its plugin returned {type(prior).__name__}",
            f"it must have .at(sigma) and .shape == {tuple(spec.shape or ('channels', 'height', 'width'))}",
        )
    return prior

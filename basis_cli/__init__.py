"""Posterior sampling with deep generative priors: separate, restore and sample pictures.

``import basis_cli`` is light; torch is imported with the first thing that computes.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which takes a while to import: until then Ctrl-C cannot be handled
if TYPE_CHECKING:
    from typing import Any

    from .compute import Compute as Compute
    from .errors import BasisError as BasisError
    from .posterior import Result as Result
    from .posterior import Sampling as Sampling
    from .posterior import SavedState as SavedState
    from .priors import PyramidPrior as PyramidPrior
    from .priors import TiledPrior as TiledPrior
    from .priors import load_prior as load_prior
    from .tasks import colorize as colorize
    from .tasks import decompress as decompress
    from .tasks import inpaint as inpaint
    from .tasks import restore as restore
    from .tasks import sample as sample
    from .tasks import separate as separate
    from .tasks import upscale as upscale

__version__ = "0.2.0"

_HOMES = (
    {"BasisError": "errors", "Compute": "compute"}
    | dict.fromkeys(("Result", "Sampling", "SavedState"), "posterior")
    | dict.fromkeys(("PyramidPrior", "TiledPrior", "load_prior"), "priors")
    | dict.fromkeys(("colorize", "decompress", "inpaint", "restore", "sample", "separate", "upscale"), "tasks")
)
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Where to compute and how: device, precision, compilation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import platformdirs
import torch
from torch import Tensor

from .api import Compilable
from .errors import UsageError

if TYPE_CHECKING:
    from .posterior import Drawn, Posterior


class Sharing(Protocol):
    """Processes that draw samples together."""

    def drawn(
        self, posterior: Posterior, y: Tensor, seeds: Sequence[Sequence[int]], compute: Compute, rank: bool
    ) -> Drawn:
        """As :func:`basis_cli.posterior.drawn`."""


@dataclass(frozen=True)
class Compute:
    """Where a run computes and how, apart from what it computes."""

    device: str = "auto"
    """``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N``, or ``mps``, an Apple GPU."""
    dtype: str = "auto"
    """``float32``, ``bfloat16`` (networks only; samples stay float32; not on ``mps``) or ``auto``: bfloat16 where it is
    multiplied in hardware (:func:`multiplies_bfloat16`)."""
    batch: int | None = None
    """Pictures (inputs times samples) worked on at once; ``None``: as many as are fast and fit into memory. A picture
    does not depend on it."""
    compile: bool = False
    """``torch.compile`` the networks: slow to begin, then faster; the same pictures up to rounding, and therefore never
    unless it is asked for."""

    sharing: Sharing | None = field(default=None, compare=False)
    """Who else draws samples, where nobody watches; ``None``: this process alone. The samples are the same."""

    def __post_init__(self) -> None:
        if self.batch is not None and not self.batch > 0:
            raise UsageError(f"batch must be greater than 0, not {self.batch}")
        if self.device.startswith("mps") and self.dtype == "bfloat16":
            raise UsageError("Apple GPUs compute in float32 here", "leave out --dtype")

    @property
    def place(self) -> torch.device:
        """The device itself."""
        return choose_device(self.device)

    def described(self) -> dict[str, Any]:
        """What is used, for a record."""
        dtype = "bfloat16" if _is_half(self.place, self.dtype) else "float32"
        return self.asked() | {"device": str(self.place), "dtype": dtype, "torch": str(torch.__version__)}

    def asked(self) -> dict[str, Any]:
        """What this says of how samples are computed: not by whom."""
        return {"device": self.device, "dtype": self.dtype, "batch": self.batch, "compile": self.compile}

    @contextmanager
    def inference(self) -> Iterator[None]:
        """A context in which networks compute as this says, and keep nothing for derivatives."""
        with torch.no_grad(), precision(self.place, self.dtype):
            yield


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; anything else is taken at its word.

    Raises:
        UsageError: not a device, or one that was asked for and is not there (never silently the CPU).
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device is called {name!r}", "use auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} is not supported", "use auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"{name} was asked for, but torch sees no Apple GPU", "--device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"{name} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices", "--device cpu"
        )
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for it: CPUs without them take fifty times as long as in float32.

    Apple GPUs do or do not, by their age and their system's: taken for no.
    """
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    names = ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16")
    return device.type == "cuda" or (device.type == "cpu" and any(capabilities.get(name) for name in names))


def precision(device: torch.device, dtype: str) -> torch.autocast:
    """A context in which networks compute in ``dtype``: ``float32``, ``bfloat16``, or ``auto``, bfloat16 in hardware.

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
    return torch.autocast(device.type, torch.bfloat16, enabled=_is_half(device, dtype))


def _is_half(device: torch.device, dtype: str) -> bool:
    return dtype == "bfloat16" or (dtype == "auto" and multiplies_bfloat16(device))


def compile_networks(models: Iterable[object]) -> None:
    """``torch.compile`` the network of every prior or direct model, see :class:`basis_cli.api.Compilable`.

    What it makes is kept in the user's cache for later runs, unless ``TORCHINDUCTOR_CACHE_DIR`` names another folder.

    Raises:
        UsageError: one has no network to compile.
    """
    kept = platformdirs.user_cache_path("basis") / "compiled"
    with suppress(OSError):  # torch takes a temporary folder then
        kept.mkdir(parents=True, exist_ok=True)
        if os.access(kept, os.W_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
    for model in {id(model): model for model in models}.values():
        if not isinstance(model, Compilable):
            raise UsageError(f"{type(model).__name__} has no network to compile", "leave out --compile")
        model.compile()

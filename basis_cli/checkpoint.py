"""Safetensors files: tensors, and notes on what they are. The same tensors and notes give the same bytes."""

from __future__ import annotations

import json
import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .data.files import atomically
from .errors import BasisError, NotFiniteError, UsageError, WeightsError


def save(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write weights, as :func:`opened` reads them; ``notes`` has at least their ``format``.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
        BasisError: the file cannot be written; what stood there before is kept.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NotFiniteError(f"{path} is not written: {name} is not finite", "weights that diverged are of no use")
    write(path, tensors, notes)


def begin_with(network: nn.Module, start: nn.Module, path: Path) -> None:
    """Load the weights of ``start``, which was read from ``path``, into ``network``; both know their ``config``.

    Raises:
        UsageError: they are not the same network.
    """
    if (type(start), start.config) != (type(network), network.config):
        hint = "it has " + ", ".join(f"{name} {value}" for name, value in start.config.items())  # type: ignore[operator, union-attr]
        raise UsageError(f"{path} holds another network", hint)
    network.load_state_dict(start.state_dict())


@contextmanager
def opened(path: Path, format: str, what: str, hint: str) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """The tensors and notes in a file of weights; the block makes a network of them.

    Args:
        format: what the notes call it.
        what: the same in words, and a ``hint`` where it comes from, for who gives another file.

    Raises:
        WeightsError: not such a file, or the block raised because its contents do not fit together.
    """
    try:
        tensors, notes = read(path)
        if notes.get("format") != format:
            raise WeightsError(f"{path} does not hold {what}", hint)
        with _no_larger_than(sum(tensor.numel() for tensor in tensors.values())):
            yield tensors, notes
    except BasisError:
        raise
    except Exception as error:  # notes may say anything
        reason = textwrap.shorten(f"{error}" or type(error).__name__, 160)  # torch lists every key
        hint = hint if _is_pickle(path) else "`basis weights verify` checks them"
        raise WeightsError(f"cannot read weights from {path}: {reason}", hint) from error


def _is_pickle(path: Path) -> bool:
    """Whether ``torch.save`` may have written it: somebody's ``checkpoint.pth``."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")
    return False


MARGIN = 4_000_000
"""Parameters of a network that does not fit its file, but does no harm: what does not fit is then said in detail."""


@contextmanager
def _no_larger_than(numbers: int) -> Iterator[None]:
    """Networks that are built in this block may not have more parameters than that: the notes may ask for any."""
    built, thread = 0, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal built
        if parameter is not None and threading.get_ident() == thread:
            built += parameter.numel()
            if built > 2 * numbers + MARGIN:  # twice: a parameter may be replaced by another while a network is built
                raise ValueError("its notes are of a larger network")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write ``tensors`` from any device.

    Raises:
        BasisError: the file cannot be written; what stood there before is kept.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = serialize(on_cpu, metadata=dict(notes))
    with atomically(path) as partial:
        partial.write_bytes(_in_order(content))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and notes in a file.

    Raises:
        OSError: it cannot be read.
        safetensors.SafetensorError: it is damaged, or something else.
    """
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118, no dict


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its notes sorted: safetensors itself writes them in another order every time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[end:]

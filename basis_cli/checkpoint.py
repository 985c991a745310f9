"""Safetensors files: tensors, and notes on what they are. The same tensors and notes give the same bytes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from .data.files import atomically
from .errors import NotFiniteError, WeightsError


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
        yield tensors, notes
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 160)  # torch lists every key
        hint = "`basis weights verify` checks them"
        raise WeightsError(f"cannot read weights from {path}: {reason}", hint) from error


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

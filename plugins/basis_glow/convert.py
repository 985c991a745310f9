"""``basis weights convert glow``: the TensorFlow checkpoints of openai/glow, read without TensorFlow.

A checkpoint of version 2 is ``NAME.index``, a sorted table (LevelDB's format) from a variable's name to a protocol
buffer that says its type, shape and place, and the raw values in ``NAME.data-00000-of-00001`` and so on. The variables,
pictures and kernels having their channels last, are for level ``l`` and step ``s``::

    model/l/s/actnorm_center/b, model/l/s/actnorm_scale/logs      (1, 1, 1, c)
    model/l/s/invconv/W                                           (c in, c out)
    model/l/s/f1/l_1/W                                            (3, 3, c/2 + 1, width)
    model/l/s/f1/l_2/W                                            (1, 1, width, width)
    model/l/s/f1/l_1/actnorm_center/b, .../actnorm_scale/logs     (1, 1, 1, width), the same under l_2
    model/l/s/f1/l_last/W, b, logs                                (3, 3, width + 1, c), (1, 1, 1, c), (1, c)
    model/pool<l>/conv/W, b, logs                                 (3, 3, c/2 + 1, c), (1, 1, 1, c), (1, c)
    model/prior/p/W, b, logs                                      (3, 3, 2c + 1, 2c), (1, 1, 1, 2c), (1, 2c)

The last input channel of a 3 x 3 kernel belongs to the plane that is one on the padding. What leaves ``l_last`` and
``conv`` alternates between shift (mean) and scale; ``prior`` has all means first. It sees a picture of zeros, so of
its kernel only the last input channel counts. Intensities are ``k / 256 - 1/2 + u / 256`` with ``u`` uniform in [0, 1),
which is ``255/256`` times ours: the first actnorm takes that up.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basis_cli.api import WeightsError

from .layers import NormalizedConv
from .network import Glow
from .prior import add_rung, save

_MAGIC = 0xDB4775248B80FB57
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}


# --- TensorFlow's format ---------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at ``at``, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer in turn, as number and value: an integer, or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = message[at : at + size], at + size
        yield tag >> 3, value


def _unsnappy(data: bytes) -> bytes:
    """What ``data`` is the Snappy compression of: literal bytes, and copies of bytes that came before."""
    size, at = _varint(data, 0)
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            length = tag >> 2
            if length >= 60:  # then so many bytes, less 59, hold the length
                extra = length - 59
                length, at = int.from_bytes(data[at : at + extra], "little"), at + extra
            out += data[at : at + length + 1]
            at += length + 1
            continue
        extra = {1: 1, 2: 2, 3: 4}[tag & 3]
        back, at = int.from_bytes(data[at : at + extra], "little"), at + extra
        length = (tag >> 2) + 1
        if tag & 3 == 1:
            length, back = (tag >> 2 & 7) + 4, back | tag >> 5 << 8
        for _ in range(length):  # byte by byte: a copy may run into what it has just written
            out.append(out[-back])
    if len(out) != size:
        raise ValueError("a compressed block is damaged")
    return bytes(out)


def _block(table: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block that ``handle`` points to; a key gives only what differs from the one before."""
    offset, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block, compression = table[offset : offset + size], table[offset + size]
    if compression:
        block = _unsnappy(block)
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end, at, key = len(block) - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def read_checkpoint(index: Path) -> dict[str, np.ndarray]:
    """The numbers of the checkpoint whose index is ``index``, by name; values stay on disk until they are used.

    What is neither a float nor an integer, or stored in slices, is left out.

    Raises:
        WeightsError: it is none, part of it is missing or cut short, or it holds what this cannot read.
    """
    try:
        table = index.read_bytes()
        if len(table) < 48 or struct.unpack_from("<Q", table, len(table) - 8)[0] != _MAGIC:
            raise ValueError("it is no checkpoint index of version 2")
        footer = table[-48:]
        _, at = _varint(footer, 0)
        _, at = _varint(footer, at)  # where the index of indices is: of no use here
        entries = {key: value for _, handle in _block(table, footer[at:]) for key, value in _block(table, handle)}
        header = dict(_fields(entries.pop(b"")))
        if header.get(2):
            raise ValueError("its numbers are big-endian")
        prefix = index.name.removesuffix(".index")
        shards = [index.with_name(f"{prefix}.data-{i:05d}-of-{header[1]:05d}") for i in range(header[1])]
        variables = {name.decode(): _variable(dict(_fields(entry)), shards) for name, entry in entries.items()}
        return {name: values for name, values in variables.items() if values is not None}
    except (OSError, ValueError, KeyError, IndexError, struct.error, TypeError) as error:
        raise WeightsError(f"cannot read the checkpoint {index}: {error}", "is the download complete?") from error


def _variable(entry: dict[int, Any], shards: list[Path]) -> np.ndarray | None:
    """The values that the fields of a ``BundleEntryProto`` describe, if they are numbers in one piece."""
    kind, slices = entry.get(1, 0), 7 in entry
    if kind not in _TYPES or slices:
        return None
    shape = tuple(dict(_fields(value)).get(1, 0) for number, value in _fields(entry.get(2, b"")) if number == 2)
    shard, offset, size = shards[entry.get(3, 0)], entry.get(4, 0), entry.get(5, 0)
    if np.dtype(_TYPES[kind]).itemsize * math.prod(shape) != size or offset + size > shard.stat().st_size:
        raise ValueError(f"{shard.name} does not hold what the index says")
    return np.memmap(shard, _TYPES[kind], "r", offset, shape) if size else np.zeros(shape, _TYPES[kind])


# --- from its variables to the network -------------------------------------------------------------------------------


class _Variables:
    """The checkpoint's variables as float32 tensors; remembers which were asked for."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The variable ``model/name``, reshaped. Raises ``ValueError`` if it is missing or of another size."""
        array = self.arrays.get(f"model/{name}")
        if array is None:
            raise ValueError(f"model/{name} is missing")
        if array.size != math.prod(shape):
            raise ValueError(f"model/{name} has shape {array.shape}, not {shape}")
        tensor = torch.from_numpy(np.array(array, np.float32)).reshape(shape)
        if not torch.isfinite(tensor).all():
            raise ValueError(f"model/{name} is not finite")
        return tensor


def _apart(x: Tensor) -> Tensor:
    """Channels that alternate along the first axis, sorted: first one kind, then the other."""
    return torch.cat([x[0::2], x[1::2]])


def _set(parameter: nn.Parameter | Tensor | None, value: Tensor) -> None:
    assert parameter is not None
    parameter.copy_(value)


def _fill(conv: NormalizedConv, name: str, variables: _Variables) -> None:
    """Copy the convolution ``name``, with the actnorm behind it."""
    out, inside, size, _ = conv.weight.shape
    planes = inside + (conv.edge is not None)
    kernel = variables(f"{name}/W", size, size, planes, out).permute(3, 2, 0, 1)
    bias, logs = (f"{name}/b", f"{name}/logs") if conv.zero else _actnorm(f"{name}/actnorm")
    order = _apart if conv.zero else torch.clone
    _set(conv.weight, order(kernel[:, :inside]))
    if conv.edge is not None:
        _set(conv.edge, order(kernel[:, inside:]))
    _set(conv.norm.bias, order(variables(bias, out)))
    _set(conv.norm.logs, order(variables(logs, out)))


def _actnorm(name: str) -> tuple[str, str]:
    return f"{name}_center/b", f"{name}_scale/logs"


@torch.no_grad()
def _network(arrays: dict[str, np.ndarray], size: int) -> Glow:
    """The network whose variables ``arrays`` are. Raises ``ValueError`` naming the first misfit."""
    steps = [tuple(map(int, m.groups())) for m in (re.match(r"model/(\d+)/(\d+)/", name) for name in arrays) if m]
    first = arrays.get("model/0/0/actnorm_center/b")
    hidden = arrays.get("model/0/0/f1/l_2/W")
    if not steps or first is None or hidden is None:
        raise ValueError("model/0/0/f1/l_2/W is missing")
    if "model/prior/y_emb/W" in arrays:
        raise ValueError("it is conditional on classes (model/prior/y_emb/W)")
    levels, depth = (1 + max(numbers) for numbers in zip(*steps, strict=True))
    network = Glow((first.size // 4, size, size), levels, depth, hidden.shape[-1])
    variables = _Variables(arrays)
    step: Any
    for i, level in enumerate(network.levels):
        for j, step in enumerate(level):  # type: ignore[arg-type]
            name, channels = f"{i}/{j}", len(step.actnorm.bias)
            bias, logs = (variables(part, channels) for part in _actnorm(f"{name}/actnorm"))
            _set(step.actnorm.bias, bias)
            _set(step.actnorm.logs, logs)
            step.mix.set(variables(f"{name}/invconv/W", channels, channels).T)
            convs = (step.coupling.conv1, "l_1"), (step.coupling.conv2, "l_2"), (step.coupling.conv3, "l_last")
            for conv, part in convs:
                _fill(conv, f"{name}/f1/{part}", variables)
    for i, split in enumerate(network.splits):
        _fill(split, f"pool{i}/conv", variables)  # type: ignore[arg-type]
    channels = network.top.shape[1]
    kernel = variables("prior/p/W", 3, 3, channels + 1, channels).permute(3, 2, 0, 1)[:, -1:]
    top = NormalizedConv(1, channels, 3, 0, zero=True)
    _set(top.edge, kernel)
    _set(network.top, top.outside(network.top))
    _set(network.top_norm.bias, variables("prior/p/b", channels))
    _set(network.top_norm.logs, variables("prior/p/logs", channels))
    scale = 255 / 256
    start = network.levels[0][0].actnorm  # type: ignore[index]
    start.bias /= scale
    start.logs += math.log(scale) / 3
    return network


def convert(index: Path, out: Path, size: int | None = None, sigma: float | None = None) -> dict[str, Any]:
    """Convert the checkpoint with the index file ``index`` to ``out``, a file for :func:`basis_glow.prior.read`.

    Levels, depth, width and channels are read off the variables; the pictures' ``size`` is 32 unless given. Weights
    stay float32, so the densities are the authors'. With ``sigma``, the noise level that the model was fine-tuned at
    (0: not at all), the file is also entered into the ladder of its folder.

    Returns:
        The network's arguments, how many ``parameters`` there are and, with ``sigma``, the ``ladder``'s path.

    Raises:
        WeightsError: no such checkpoint, damaged, or of another network: only affine couplings and 1 x 1 convolutions
            without classes can be converted.
        BasisError: ``out`` cannot be written.
    """
    arrays = read_checkpoint(index)
    try:
        network = _network(arrays, size or 32)
    except ValueError as error:
        hint = "only Glow with affine couplings and 1 x 1 convolutions, without classes, can be converted"
        raise WeightsError(f"{index} is of another network: {error}", hint) from error
    save(out, network, sigma or 0.0, {"source": index.name}, torch.float32)
    about = network.config | {"parameters": sum(p.numel() for p in network.parameters())}
    return about if sigma is None else about | {"ladder": add_rung(out, sigma, network.shape)}

"""Random numbers that depend on a picture's own seed and on nothing else.

A counter-based generator (SplitMix64, Steele et al. 2014): number ``i`` of a stream is a hash of (seed, i), computed
with the same integer arithmetic on every device. So a picture is the same alone or in a batch, on the CPU or on CUDA.
For other devices, whose 64-bit integers are not to be relied on, numbers are made on the CPU.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift, a new tensor; torch's own is arithmetic on signed integers."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = _shift(x, 30).bitwise_xor_(x).mul_(_MIX1)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_MIX2)
    return _shift(x, 31).bitwise_xor_(x)


def _unit(bits: Tensor) -> Tensor:
    """Float32 numbers inside (0, 1), from the upper 23 bits: with 24, the largest would round to 1."""
    return _shift(bits, 41).float().add_(0.5).mul_(2.0**-23)


class PerImageNoise:
    """Uniform and normal numbers for a batch of ``n`` pictures, one stream each.

    ``seeds`` are ``n`` integers in [0, 2^63). Tensors are ``(k, n, ...)``: the second axis is the picture. The position
    in the streams is a tensor on ``device``, changed in place, so that drawing numbers can be part of a CUDA graph.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self._used_on = torch.device(device)
        device = self._used_on if self._used_on.type == "cuda" else "cpu"
        state = torch.tensor([int(seed) for seed in seeds], dtype=torch.int64, device=device)
        self.streams = _mix(_mix(state + _GOLDEN))
        self._offset = torch.zeros((), dtype=torch.int64, device=device)
        self._cells: dict[tuple[int, ...], Tensor] = {}

    @property
    def offset(self) -> int:
        """How many 64-bit words each stream has used so far; set it to continue where a saved run stopped."""
        return int(self._offset)

    @offset.setter
    def offset(self, words: int) -> None:
        self._offset.fill_(words)

    def _bits(self, shape: tuple[int, ...], words: int) -> Tensor:
        """``words`` 64-bit integers a stream, as ``(k, n, rest)`` with ``k * rest >= words``."""
        k = shape[0]
        rest = -(-words // k)
        if (k, rest) not in self._cells:
            index = torch.arange(1, k * rest + 1, device=self.streams.device).view(k, 1, rest)
            self._cells[k, rest] = index * _GOLDEN
        counter = self._cells[k, rest] + (self.streams + self._offset * _GOLDEN)[:, None]
        self._offset += k * rest
        return _mix(counter)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Float32 numbers in (0, 1), ``shape = (k, n, ...)``."""
        bits = self._bits(shape, shape[0] * math.prod(shape[2:]))
        return _unit(bits).view(shape).to(self._used_on)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal float32 numbers, ``shape = (k, n, ...)``, by Box and Muller."""
        k, each = shape[0], math.prod(shape[2:])
        half = -(-each // 2)
        bits = self._bits(shape, k * half)
        radius = _unit(bits).log_().mul_(-2).sqrt_()
        angle = bits.bitwise_and_(0xFFFFFF).float().mul_(2 * math.pi * 2.0**-24)
        pair = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=-1)
        return pair[..., :each].reshape(shape).to(self._used_on)


def picture_seeds(seed: int, y: Tensor, samples: int = 1) -> list[list[int]]:
    """The seeds of ``samples`` for each of ``y`` ``(n, ...)``, from ``seed`` and what was observed alone.

    So a picture has the same noise wherever and beside whichever others it is drawn, and no two of a folder share an
    unlucky one. What was observed is hashed in 8-bit levels, for the last bits of a float differ between machines. The
    edges between those levels are where neither 8 and 16 bits nor means of a few channels or pixels have values.
    """
    levels = (y.cpu().double() * 255 + 1 / math.pi).floor().long()
    contents = [hashlib.sha256(repr(tuple(each.shape)).encode() + each.numpy().tobytes()) for each in levels]
    hashes = [int.from_bytes(content.digest()[:8], "little") for content in contents]
    return [[image_seed(seed, content, sample) for sample in range(samples)] for content in hashes]


def image_seed(seed: int, *index: int) -> int:
    """The seed of picture ``index`` where nothing is observed: a 63-bit hash, so that neighbours share nothing."""
    return int(np.random.SeedSequence((seed, *index)).generate_state(1, np.uint64)[0] >> np.uint64(1))

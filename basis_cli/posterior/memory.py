"""How many pictures to work on at once, and what to do when they were too many."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch

from ..api import Prior
from ..errors import BasisError, RunWarning, out_of_memory
from ..samplers import joint_score

CPU_PIXELS = 2**17
"""Pixels through the networks at once, on a CPU. With ``ncsn-mnist`` in bfloat16 on one core, 128 or 256 pictures at
once take 1.65 ms each, 64 or 512 take 1.8, and 16 take 2.2: the more, the better a layer's weights are used, until the
pictures leave the cache."""
CUDA_PICTURES = 1024
"""No more than this on a GPU: it is busy with fewer, and results come in sooner."""
_PROBE = 8


@torch.no_grad()
def batch_size(priors: Sequence[Prior], count: int, device: torch.device) -> int:
    """How many of ``count`` pictures to work on at once, each with one component for every prior.

    On CUDA as many as take half of the free memory, by a measured evaluation: samplers keep some tensors of their own,
    and differentiating a network takes more. Apple GPUs, whose memory tells less about itself, are taken for CPUs.
    The batches are made about equal.
    """
    if device.type != "cuda":
        most = CPU_PIXELS // (len(priors) * math.prod(priors[0].shape[1:]))
    else:
        try:
            most = min(_free(device) // (2 * _bytes_a_picture(priors, device)), CUDA_PICTURES)
        except torch.OutOfMemoryError:
            most = 1
    batches = -(-count // max(most, 1))
    return -(-count // batches)


def _free(device: torch.device) -> int:
    """Bytes that torch may still use: what the driver has, and what torch holds without using it."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _bytes_a_picture(priors: Sequence[Prior], device: torch.device) -> int:
    """Measured on a few pictures; the second of two evaluations, as the first pays for what libraries keep."""
    x = torch.zeros(len(priors), _PROBE, *priors[0].shape, device=device)
    score = joint_score(priors, (priors[0].sigmas or (1.0,))[0])
    score(x)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    score(x)
    return max((torch.cuda.max_memory_allocated(device) - before) // _PROBE, 1)


def halved(size: int, error: BaseException) -> int:
    """The batch size to go on with after ``size`` pictures at once raised ``error``, with a :class:`RunWarning`.

    Raises:
        BasisError: there was only one picture.
        BaseException: ``error`` itself, if it is not about memory.
    """
    if not out_of_memory(error):
        raise error
    if size == 1:
        raise BasisError(
            "one picture alone does not fit into memory", "try --dtype bfloat16 or --device cpu"
        ) from error
    warnings.warn(f"out of memory with {size} pictures at once: going on with {size // 2}", RunWarning, stacklevel=3)
    return size // 2

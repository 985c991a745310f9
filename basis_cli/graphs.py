"""CUDA graphs: a step is recorded once and replayed, so the host launches one graph instead of hundreds of kernels.

Not tested on a GPU yet. The rules it keeps are those of https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from .errors import RunWarning

WARM_UP = 3
"""Steps run as they are before one is recorded: libraries allocate and choose their algorithms in the first ones."""

_refused = False  # a failed recording may leave torch's allocator in a doubtful state, so there is no second try


def repeated(step: Callable[[], None], times: int, device: torch.device) -> Iterator[int]:
    """Call ``step()`` ``times`` times and yield 0, 1, ... after each. On CUDA most calls are replays of a recording.

    A recording knows addresses, not names: ``step`` must keep its whole state in tensors on ``device`` that it changes
    in place, must not wait for the device, and must not draw from torch's generators. If it cannot be recorded, it is
    called every time, with a :class:`basis_cli.errors.RunWarning`; the numbers are the same.
    """
    if device.type != "cuda" or times <= 2 * WARM_UP:
        for done in range(times):
            step()
            yield done
        return
    for done in range(WARM_UP):
        with _aside(device):
            step()
        yield done
    again = _recorded(step, device)
    try:
        for done in range(WARM_UP, times):
            again()
            yield done
    finally:
        torch.cuda.synchronize(device)  # the recording's memory is given back now, so no replay may be on its way


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all recordings: libraries keep a workspace for each stream they have seen."""
    return torch.cuda.Stream(device)


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Work on a stream of its own, after what was begun before and before what comes after."""
    current = torch.cuda.current_stream(device)
    _stream(device).wait_stream(current)
    with torch.cuda.device(device), torch.cuda.stream(_stream(device)):
        yield
    current.wait_stream(_stream(device))


def _recorded(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """``step`` as a replay of its recording, or itself if it cannot be recorded; nothing is computed here."""
    global _refused
    if _refused:
        return step
    graph = torch.cuda.CUDAGraph()
    inference = torch.is_inference_mode_enabled()
    # Weights cast during recording live in the graph's memory: no eager call may find them in autocast's cache.
    autocast = torch.autocast(
        "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
    )
    try:
        with (
            _aside(device),
            torch.inference_mode(False),  # torch makes tensors for its generators here, which others may record with
            torch.cuda.graph(graph, stream=_stream(device)),
            torch.inference_mode(inference),
            torch.no_grad(),
            autocast,
        ):
            step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _refused = True
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"no CUDA graph, so the run is slower: {reason}", RunWarning, stacklevel=2)
        return step
    return graph.replay

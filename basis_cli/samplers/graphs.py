"""CUDA graphs: a step is recorded once and replayed, so the host launches one graph instead of hundreds of kernels.

Not tested on a GPU yet. The rules it keeps are those of https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ..errors import RunWarning

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
    recordable = _Recordable(step, device)
    for done in range(WARM_UP):
        with _aside(device):
            recordable()
        yield done
    again = recordable.recorded()
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


class _Recordable:
    """``step`` as it runs before and during recording: under the very same modes, or ``torch.compile`` compiles anew.

    Autocast's cache is off: weights cast while recording live in the graph's memory, where no other call may find them.
    """

    def __init__(self, step: Callable[[], None], device: torch.device):
        self.step, self.device = step, device
        dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        self.autocast = torch.autocast("cuda", dtype, enabled, cache_enabled=False)

    def __call__(self) -> None:
        with torch.no_grad(), self.autocast:
            self.step()

    def recorded(self) -> Callable[[], None]:
        """The replay of a recording, or the step itself if it cannot be recorded; nothing is computed here."""
        global _refused
        if _refused:
            return self.step
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                _aside(self.device),
                torch.cuda.graph(graph, stream=_stream(self.device), capture_error_mode="thread_local"),
            ):
                self()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _refused = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"no CUDA graph, so the run is slower: {reason}", RunWarning, stacklevel=3)
            return self.step
        return graph.replay

"""CUDA graphs without a GPU: a stand-in records a step's operations with their tensors and runs them again."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch
from basis_toy.prior import four_pictures
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from basis_cli import samplers
from basis_cli.errors import RunWarning
from basis_cli.operators import Mixture
from basis_cli.samplers import algorithm1, graphs
from basis_cli.samplers.noise import PerImageNoise

SHAPE = (1, 8, 8)
GPU = torch.device("cuda", 0)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Tape(TorchDispatchMode):
    """As a CUDA graph: every number that is not in a tensor is frozen, every tensor keeps its place."""

    def __init__(self):
        super().__init__()
        self.operations, self.before = [], {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in tensors((args, kwargs)):
            self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        result = function(*args, **kwargs)
        self.operations.append((function, args, kwargs, tensors(result)))
        return result

    def replay(self):
        for function, args, kwargs, places in self.operations:
            for place, tensor in zip(places, tensors(function(*args, **kwargs)), strict=True):
                if place.data_ptr() != tensor.data_ptr():
                    place.copy_(tensor)


@pytest.fixture
def gpu(monkeypatch):
    """A device that records on :class:`Tape`; yields all recordings."""
    tapes = []

    @contextmanager
    def record(tape, stream, capture_error_mode):
        assert capture_error_mode == "thread_local", "another thread may be reading the next level's weights"
        tapes.append(tape)
        with tape:
            yield
        for tensor, before in tape.before.values():  # recording computes nothing
            tensor.copy_(before)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(graphs, "_aside", lambda device: nullcontext())
    monkeypatch.setattr(graphs, "_stream", lambda device: None)
    monkeypatch.setattr(graphs, "_refused", False)
    monkeypatch.setattr(algorithm1, "repeated", lambda step, times, device: graphs.repeated(step, times, GPU))
    return tapes


def counter():
    total = torch.zeros(())
    return total, lambda: total.add_(1)


@pytest.mark.parametrize("times", [0, 1, 3, 6, 7, 20])
def test_a_step_is_done_once_a_time_and_recorded_only_if_that_pays(gpu, times):
    total, step = counter()
    seen = [(done, int(total)) for done in graphs.repeated(step, times, GPU)]
    assert seen == [(i, i + 1) for i in range(times)]
    assert len(gpu) == (times > 2 * graphs.WARM_UP)


def test_on_a_cpu_nothing_is_recorded(gpu):
    total, step = counter()
    assert list(graphs.repeated(step, 20, torch.device("cpu"))) == list(range(20))
    assert int(total) == 20
    assert not gpu


def test_langevin_draws_the_same_pictures_from_recordings(gpu, monkeypatch):
    prior = four_pictures(SHAPE)
    y = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    options = {"seeds": [3, 4], "sigmas": (0.5, 0.2), "steps": 9, "step_size": 1e-3}
    replayed = samplers.langevin([prior, prior], Mixture([0.7, 0.3]), y, **options)
    assert len(gpu) == 2  # one a level
    monkeypatch.setattr(algorithm1, "repeated", graphs.repeated)
    eager = samplers.langevin([prior, prior], Mixture([0.7, 0.3]), y, **options)
    assert torch.equal(replayed, eager)


def test_noise_advances_in_a_recording(gpu):
    noise, expected = PerImageNoise([5, 6]), PerImageNoise([5, 6])
    z = torch.zeros(1, 2, 3)
    for _ in graphs.repeated(lambda: z.copy_(noise.normal((1, 2, 3))), 10, GPU):
        assert torch.equal(z, expected.normal((1, 2, 3)))
    assert noise.offset == expected.offset == 20


def test_a_step_that_cannot_be_recorded_is_called_instead_and_not_tried_again(gpu, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    total, step = counter()
    with pytest.warns(RunWarning, match="not permitted when stream is capturing$"):
        assert list(graphs.repeated(step, 10, GPU)) == list(range(10))
    assert int(total) == 10
    monkeypatch.setattr(torch.cuda, "graph", None)  # not touched again
    list(graphs.repeated(step, 10, GPU))
    assert int(total) == 20


def test_out_of_memory_is_not_hidden(gpu, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "graph", full)
    with pytest.raises(torch.OutOfMemoryError):
        list(graphs.repeated(counter()[1], 10, GPU))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_replays_what_it_would_compute():
    prior = four_pictures(SHAPE).to("cuda")
    y = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)).cuda()
    options = {"seeds": [3, 4], "sigmas": (0.5, 0.2), "steps": 20, "step_size": 1e-3}
    replayed = samplers.langevin([prior, prior], Mixture([0.7, 0.3]), y, **options)
    assert not graphs._refused
    graphs._refused = True
    try:
        eager = samplers.langevin([prior, prior], Mixture([0.7, 0.3]), y, **options)
    finally:
        graphs._refused = False
    torch.testing.assert_close(replayed, eager)

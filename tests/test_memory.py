"""Batch sizes, running out of memory, precision and compilation: how a run is carried out, never what comes out."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from basis_ncsn.prior import ScorePrior
from basis_ncsn.unet import UNet
from basis_toy.prior import four_pictures

from basis_cli.compute import Compute, precision
from basis_cli.errors import BasisError, RunWarning, UsageError
from basis_cli.operators import Mixture
from basis_cli.posterior import Guided, Sampling, answers, memory
from basis_cli.samplers import unwatched

SHAPE = (1, 8, 8)
CPU_MESSAGE = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
QUICK = Sampling("langevin", levels=2, steps=3, step_size=1e-3)


@pytest.fixture(autouse=True)
def _samplers_alone(monkeypatch):
    """What is counted here are the sampler's evaluations, not those that judge its answers."""
    monkeypatch.setattr("basis_cli.posterior.surprise.SIGMAS", ())


class Small:
    """A toy prior on a machine where ``room`` pictures fit; ``trouble`` makes the exception."""

    sigmas = None
    shape = SHAPE

    def __init__(self, room, trouble=lambda: RuntimeError(CPU_MESSAGE)):
        self.room, self.trouble, self.sizes = room, trouble, []

    def at(self, sigma):
        self.level = four_pictures(SHAPE).at(sigma)
        return self

    def score(self, x):
        self.sizes.append(len(x) // 2)
        if len(x) // 2 > self.room:
            raise self.trouble()
        return self.level.score(x)


def run(prior, sampling=QUICK, n=11, watch=unwatched, **compute):
    """Samples ``(2, n, c, h, w)`` and evaluations for each component."""
    y = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))
    posterior = Guided([prior, prior], Mixture([0.5, 0.5]), sampling)
    found = answers(posterior, y, [[i] for i in range(n)], compute=Compute("cpu", **compute), watch=watch)
    results = [result for _, result in found]
    return torch.cat([result.ranked[0].x for result in results], dim=1), results[-1].evaluations


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: RuntimeError(CPU_MESSAGE),
        lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError,
    ],
)
def test_too_many_pictures_are_halved_until_they_fit_and_come_out_the_same(trouble):
    expected, evaluations = run(four_pictures(SHAPE))
    prior = Small(3, trouble)
    with pytest.warns(RunWarning) as caught:
        got, counted = run(prior)
    assert [str(warning.message) for warning in caught] == [
        "out of memory with 11 pictures at once: going on with 5",
        "out of memory with 5 pictures at once: going on with 2",
    ]
    assert torch.equal(got, expected)
    assert counted == evaluations == 6
    assert prior.sizes == [11, 5] + [2] * 30 + [1] * 6


def test_what_was_done_before_memory_ran_out_is_kept():
    class Shrinking(Small):
        def at(self, sigma):
            if len(self.sizes) == 6:  # after the first batch
                self.room = 2
            return super().at(sigma)

    prior = Shrinking(4)
    with pytest.warns(RunWarning, match="with 4 pictures at once: going on with 2"):
        got, _ = run(prior, n=8, batch=4)
    assert prior.sizes == [4] * 6 + [4] + [2] * 12
    assert torch.equal(got, run(four_pictures(SHAPE), n=8)[0])


def test_one_picture_that_does_not_fit_is_an_error_with_a_way_out():
    with pytest.warns(RunWarning), pytest.raises(BasisError, match="one picture alone does not fit") as caught:
        run(Small(0), n=2)
    assert "bfloat16" in caught.value.hint


def test_other_errors_are_not_taken_for_lack_of_memory():
    with pytest.raises(BasisError, match="Small failed: RuntimeError: shapes do not match"):
        run(Small(0, lambda: RuntimeError("shapes do not match")))


def test_watchers_are_told_of_the_batches_that_there_are():
    seen = []
    with pytest.warns(RunWarning):
        run(Small(3), n=7, watch=lambda progress: seen.append((progress.batch, progress.batches)))
    assert sorted(set(seen)) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(("n", "k", "side", "size"), [(1, 2, 28, 1), (50, 2, 28, 50), (500, 2, 28, 72), (4, 3, 512, 1)])
def test_cpu_batches_are_even_and_smaller_for_larger_pictures(n, k, side, size):
    class Prior:
        shape = (1, side, side)

    assert memory.batch_size([Prior()] * k, n, torch.device("cpu")) == size


@pytest.mark.parametrize(
    ("free", "count", "size"), [(2**40, 3000, 1000), (2**40, 5, 5), (2 * 10 * 1000, 100, 10), (10, 100, 1)]
)
def test_cuda_batches_fill_half_of_the_free_memory_at_most(monkeypatch, free, count, size):
    monkeypatch.setattr(memory, "_free", lambda device: free)
    monkeypatch.setattr(memory, "_bytes_a_picture", lambda priors, device: 1000)
    assert memory.batch_size([four_pictures(SHAPE)] * 2, count, torch.device("cuda")) == size


def test_a_probe_that_does_not_fit_means_one_at_a_time(monkeypatch):
    def full(priors, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(memory, "_free", lambda device: 1)
    monkeypatch.setattr(memory, "_bytes_a_picture", full)
    assert memory.batch_size([four_pictures(SHAPE)], 10, torch.device("cuda")) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_a_picture_is_measured_on_a_gpu():
    network = UNet(widths=(32, 64)).cuda()
    small, large = (ScorePrior(network, (1, side, side)) for side in (16, 64))
    device = torch.device("cuda", torch.cuda.current_device())
    ratio = memory._bytes_a_picture([large], device) / memory._bytes_a_picture([small], device)
    assert 8 < ratio < 32
    assert memory._free(device) > 0


@pytest.fixture
def flags():
    """The two switches for TF32, put back as they were."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize(("dtype", "tf32"), [("float32", False), ("auto", True), ("bfloat16", True)])
def test_float32_means_float32_on_cuda(dtype, tf32):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not tf32
    precision(torch.device("cpu"), dtype)
    assert torch.backends.cudnn.allow_tf32 is not tf32  # only for CUDA
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no CUDA here
        precision(torch.device("cuda"), dtype)
    assert torch.backends.cuda.matmul.allow_tf32 is tf32
    assert torch.backends.cudnn.allow_tf32 is tf32


def test_unknown_dtype_is_a_usage_error():
    with pytest.raises(UsageError, match="float16"):
        precision(torch.device("cpu"), "float16")


def tiny():
    torch.manual_seed(0)
    return ScorePrior(UNet(widths=(8, 32), blocks=1, patch=1), SHAPE)


def test_compile_compiles_the_network_once_and_keeps_the_pictures(monkeypatch):
    compiled = []

    def compile_(function, **options):  # the real compiler takes a minute
        compiled.append(function)
        return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))

    expected, _ = run(tiny(), n=2)
    monkeypatch.setattr(torch, "compile", compile_)
    prior = tiny()
    for _ in range(2):
        got, _ = run(prior, n=2, compile=True)
        torch.testing.assert_close(got, expected)
    assert len(compiled) == 1


def test_a_prior_without_a_network_cannot_be_compiled():
    with pytest.raises(UsageError, match="GaussianMixture has no network to compile") as caught:
        run(four_pictures(SHAPE), compile=True)
    assert "--compile" in caught.value.hint


def test_a_compiler_that_fails_is_a_plain_error(monkeypatch):
    class CompilerMissing(RuntimeError):
        pass

    CompilerMissing.__module__ = "torch._inductor.exc"

    def broken(*args):
        raise CompilerMissing("no C++ compiler\nand a long trace")

    monkeypatch.setattr(UNet, "forward", broken)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    with pytest.raises(BasisError, match="torch.compile failed: no C") as caught:
        run(tiny(), n=1, compile=True)
    assert "--compile" in caught.value.hint


def test_the_default_batch_is_chosen_from_memory(monkeypatch):
    monkeypatch.setattr(memory, "batch_size", lambda priors, count, device: 2)
    prior = Small(2)
    run(prior, n=4)
    assert set(prior.sizes) == {2}

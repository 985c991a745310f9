"""``--workers`` of evaluations: the figures of one process, whoever draws the samples."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from basis_cli import operators
from basis_cli.cli import pool
from basis_cli.cli.options import WorkerCount
from basis_cli.compute import Compute
from basis_cli.errors import BasisError, UsageError
from basis_cli.posterior import Guided, Sampling, drawn
from basis_cli.priors import load_prior
from basis_cli.tasks.separation import Separate

TWO = WorkerCount(2)


def test_samples_drawn_together_are_those_drawn_alone():
    """Also of the next posterior, which the same processes draw; and what goes wrong in one is raised here."""
    y = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seeds = [[2 * i, 2 * i + 1] for i in range(5)]
    prior = load_prior("toy-gaussian")
    with closing(pool.Pool(TWO)) as processes:
        for sampler, k in (("ep", 2), ("project", 3)):
            posterior = Separate(k).posterior([prior] * k, Sampling(sampler, levels=3))
            alone = drawn(posterior, y, seeds)
            shared = drawn(posterior, y, seeds, compute=Compute(sharing=processes))
            assert shared.evaluations == alone.evaluations
            for one, other in zip(alone.ranked, shared.ranked, strict=True):
                assert torch.equal(one.x, other.x)
                assert torch.equal(one.log_likelihood, other.log_likelihood)
                assert (one.answer, one.drawn) == (other.answer, other.drawn)
        with pytest.raises(BasisError, match="step"):
            drawn(
                Separate(2).posterior([prior] * 2, Sampling("langevin", steps=2, step_size=1e30)),
                y,
                seeds,
                compute=Compute(sharing=processes),
            )


def test_what_cannot_be_sent_is_told():
    blurred = operators.Forward(lambda x: x[0] + x[0].roll(1, -1))
    posterior = Guided([load_prior("toy-gaussian")], blurred, Sampling("conjugate", levels=2))
    with closing(pool.Pool(TWO)) as processes, pytest.raises(UsageError, match="cannot be sent") as error:
        drawn(posterior, torch.rand(2, 1, 8, 8), [[0], [1]], compute=Compute(sharing=processes))
    assert error.value.hint == "leave out --workers"


class Stand:
    """In place of processes."""

    pictures: ClassVar[list[int]] = []

    def __init__(self, workers, quiet=True):
        assert workers == TWO

    def drawn(self, posterior, y, seeds, compute, rank):
        assert compute == replace(Compute(), batch=compute.batch)
        assert compute.sharing is None
        self.pictures.append(len(y))
        return drawn(posterior, y, seeds, compute=compute, rank=rank)

    def close(self):
        self.pictures.append(0)


@pytest.mark.parametrize(
    ("command", "pictures"),
    [
        ("evaluate separation --prior toy-gaussian --pairs 3 --levels 2", [3, 0]),
        ("evaluate inpainting --prior toy-gaussian --data mnist --pictures 4 --levels 2", [4, 0]),
        ("evaluate likelihood --prior toy-gaussian --pictures 3 --pairs 2 --levels 2 --steps 1", [2, 0]),
        ("bench samplers --prior toy-gaussian --pairs 2 --budgets 12 --only project --only ep", [2, 2, 0]),
    ],
)
def test_evaluations_share_and_find_the_same(basis, digits, monkeypatch, command, pictures):
    monkeypatch.setenv("BASIS_DATA", str(digits()))
    monkeypatch.setattr(pool, "Pool", Stand)
    monkeypatch.setattr(Stand, "pictures", [])
    alone = basis(*command.split(), "--json", "-q")
    assert alone.exit_code == 0, alone.output
    assert not Stand.pictures
    shared = basis(*command.split(), "--json", "-q", "--workers", 2)
    assert Stand.pictures == pictures
    assert _without_seconds(json.loads(shared.stdout)) == _without_seconds(json.loads(alone.stdout))


def _without_seconds(found):
    if isinstance(found, dict):
        return {name: _without_seconds(value) for name, value in found.items() if name != "seconds"}
    return [_without_seconds(each) for each in found] if isinstance(found, list) else found


def test_bench_workers_wants_several(basis, monkeypatch):
    assert basis("bench", "workers", "--workers", 1).exit_code == 2
    monkeypatch.setattr(pool, "Pool", Stand)
    words = ("bench", "workers", "--prior", "toy-gaussian", "--count", 3, "--levels", 2, "-q")
    result = json.loads(basis(*words, "--json").stdout)
    assert result["same"]
    assert result["ratio"] == pytest.approx(result["alone"] / result["shared"])
    assert "the same samples" in basis(*words).stdout

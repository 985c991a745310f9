"""``--fast``, ``--best``, and how long it will take."""

from __future__ import annotations

import pytest
import torch
from basis_toy.prior import soft_blobs

from basis_cli.compute import Compute
from basis_cli.errors import UsageError
from basis_cli.operators import Mixture
from basis_cli.posterior import Guided, Sampling, estimated_seconds
from basis_cli.tasks import Separate, built_in, colorize
from basis_cli.tasks.samples import Sample
from basis_cli.tasks.separation import Mixing

NEEDS = {"inpaint": {"mask": "right"}, "upscale": {"factor": 2}}
BLOBS = [soft_blobs((1, 8, 8))] * 2
TASKS = {name: task(**NEEDS.get(name, {})) for name, task in built_in().items()}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_both(name):
    fast, samples, select = TASKS[name].chosen("fast", Sampling(seed=3), None, None)
    assert (fast, samples, select) == (Sampling(seed=3, levels=10), 1, "all")
    best, samples, select = TASKS[name].chosen("best", Sampling(), None, None)
    assert samples == 4
    assert select == "mode"
    assert best.levels in (None, 58)


def test_what_is_said_beside_a_preset_counts():
    task = TASKS["separate"]
    assert task.chosen("fast", Sampling(levels=7), 2, "mean") == (Sampling(levels=7), 2, "mean")
    assert task.chosen("best", Sampling(), 3, None) == (Sampling(levels=58), 3, "mode")
    assert Separate(3).chosen("best", Sampling(), None, None) == (Sampling(levels=25), 8, "mode")
    assert task.chosen(None, Sampling(), None, None) == (Sampling(), 1, "all")
    lighter = Separate(mixing=Mixing.max)
    assert [one.posterior(BLOBS, Sampling()).sampling.levels for one in (task, lighter)] == [None, 50]
    assert task.chosen("fast", Sampling("ep"), None, None)[0] == Sampling("ep", levels=10)
    with pytest.raises(UsageError, match="'fast' is the sampler 'ep'"):
        task.chosen("fast", Sampling("langevin"), None, None)
    with pytest.raises(UsageError, match="no preset is called 'slow'"):
        task.chosen("slow", Sampling(), None, None)


def test_samples_flow_unless_the_best_are_asked_for():
    assert Sample().chosen("best", Sampling(), None, None)[0].sampler == "langevin"
    assert Sample().posterior([soft_blobs((1, 8, 8))], Sampling()).sampling.overrelaxation == -0.9
    with pytest.raises(UsageError, match="'best' is the sampler 'langevin'"):
        Sample().chosen("best", Sampling("project"), None, None)


def test_in_the_library():
    result = colorize(torch.rand(1, 8, 8), prior=soft_blobs((3, 8, 8)), preset="fast", samples=2)
    assert (result.settings["levels"], result.settings["samples"], result.settings["select"]) == (10, 2, "all")


def test_the_flow_draws_from_a_gaussian():
    prior = soft_blobs((1, 8, 8))
    posterior = Sample().posterior([prior], Sampling())
    x = posterior.sample(torch.zeros(1000, 0), range(1000))[0]
    assert float(x.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(x.std(0).mean()) == pytest.approx(0.191, abs=0.005)  # 0.2; 0.138 were all noise renewed


def seconds(inputs=8, samples=1, uncertainty=False, **sampling):
    posterior = Guided([soft_blobs((1, 8, 8))] * 2, Mixture([0.5, 0.5]), Sampling(**sampling))
    return estimated_seconds(posterior, inputs, samples, Compute("cpu", batch=4), uncertainty)


def test_time_grows_with_the_work(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("basis_cli.posterior.cost.time.perf_counter", lambda: next(clock))  # an evaluation: 1 s
    assert seconds(sampler="project") == 50 * 2  # batches of four
    assert seconds(sampler="ep", levels=10) == 2 * 10 * 2
    assert seconds(sampler="langevin") == 10 * 100 * 2
    assert seconds(sampler="project", samples=2) == (50 + 8) * 4  # with their likelihoods
    assert seconds(sampler="average") == 0
    about = 8 * 4 * 9  # draws of four levels, each with four derivatives
    assert seconds(sampler="project", samples=2, uncertainty=True) == (50 + 8) * 4 + about * 2
    assert seconds(sampler="mmps", uncertainty=True) == seconds(sampler="mmps")  # its own samples say it

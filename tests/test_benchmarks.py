"""``basis bench``: figures that mean what they say, on priors whose cost or posterior is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from basis_toy.prior import four_pictures

from basis_cli import plugins
from basis_cli.compute import Compute
from basis_cli.data.datasets import Dataset
from basis_cli.errors import RunWarning, UsageError
from basis_cli.evaluation import benchmarks
from basis_cli.posterior import Sampling, ranking

CPU = Sampling("project", levels=5)


class Slow:
    """A prior whose score takes ``seconds`` and ``scratch`` bytes."""

    sigmas = None

    def __init__(self, seconds=0.002, scratch=0, side=4):
        self.seconds, self.scratch, self.shape = seconds, scratch, (1, side, side)

    def at(self, sigma):
        return self

    def score(self, x):
        torch.ones(self.scratch, dtype=torch.uint8)
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return -x


@pytest.fixture(scope="module")
def result():
    seen = []
    both = Slow(0.002), Slow(0.004, 2**26)
    result = benchmarks.speed(*both, CPU, count=4, rounds=2, scaling=True, callback=seen.append)
    assert seen == [*(f"{side}, round {i} of 2" for i in (1, 2) for side in ("ours", "paper")), "scaling"]
    return result


def test_counts_evaluations_and_scales_the_steps_that_were_left_out(result):
    assert result["ours"]["evaluations"] == result["ours"]["steps"] == result["ours"]["timed_steps"] == 5
    assert result["paper"]["evaluations"] == result["paper"]["steps"] == 1000
    assert result["paper"]["timed_steps"] == 4
    assert result["paper"]["seconds_many"] > 1000 * 0.004
    assert result["ours"]["seconds_many"] > 5 * 0.002


def test_ratios_are_of_the_figures_and_above_1_in_our_favour(result):
    ours, paper, ratios = result["ours"], result["paper"], result["ratios"]
    pairs = [each["paper"]["seconds_many"] / each["ours"]["seconds_many"] for each in result["rounds"]]
    assert ratios["seconds_many"]["mean"] == pytest.approx(sum(pairs) / 2)
    assert ratios["seconds_many"]["standard_error"] == pytest.approx(abs(pairs[0] - pairs[1]) / 2)
    assert ours["seconds_one"] == pytest.approx(sum(each["ours"]["seconds_one"] for each in result["rounds"]) / 2)
    assert (ratios["evaluations"]["mean"], ratios["evaluations"]["standard_error"]) == (200, 0)
    assert ratios["evaluations_a_second"]["mean"] > 1
    for each in result["rounds"]:
        assert each["ours"]["evaluations_a_second"] == pytest.approx(2 * 4 * 5 / each["ours"]["seconds_many"])
    if "peak_bytes" in ratios:
        assert paper["peak_bytes"] - ours["peak_bytes"] > 2**25


def test_share_outside_the_network_is_of_the_time(result):
    slower = benchmarks._cost(Slow(0.05), CPU, Compute("cpu"), 2, 4)
    assert 0 < slower["outside_network"] < result["ours"]["outside_network"] < 1


def test_scaling_varies_one_thing_at_a_time(result):
    scaling = result["scaling"]
    assert [row["batch"] for row in scaling["batch"]] == [1, 8, 32, 128]
    assert [row["k"] for row in scaling["k"]] == [2, 3, 4]
    assert [row["levels"] for row in scaling["levels"]] == [5, 10, 20, 40]
    assert scaling["levels"][-1]["seconds"] > 40 * 0.002
    for row in (row for rows in scaling.values() for row in rows):
        evaluations = row["batch"] * row["k"] * row["levels"]
        assert row["evaluations_a_second"] == pytest.approx(evaluations / row["seconds"])


def test_full_runs_every_step():
    result = benchmarks.speed(Slow(0), Slow(0), CPU, count=1, rounds=1, full=True)
    assert result["paper"]["timed_steps"] == result["paper"]["steps"] == 1000


def test_priors_of_different_shapes_are_refused():
    with pytest.raises(UsageError, match="not the same pictures"):
        benchmarks.speed(Slow(), Slow(side=8), CPU)


@pytest.mark.parametrize("contender", benchmarks.CONTENDERS, ids=lambda contender: contender.name)
@pytest.mark.parametrize("budget", benchmarks.BUDGETS)
def test_contenders_stay_within_their_budget(contender, budget):
    chosen = contender.sampling(budget, CPU)
    if chosen is None:
        assert budget < contender.samples * 30
        return
    each = (chosen.steps or plugins.sampler_spec(contender.sampler).evaluations) * chosen.levels
    spent = contender.samples * (each + (len(ranking.SIGMAS) if contender.samples > 1 else 0))
    assert 0.6 * budget < spent <= budget


class ScoreOnly:
    shape, sigmas = (1, 8, 8), None

    def at(self, sigma):
        class Level:
            score = staticmethod(four_pictures(self.shape).at(sigma).score)

        return Level()


def test_frontier_compares_all_on_the_same_mixtures():
    """Pictures that a prior knows exactly: more evaluations and a choice among samples do not separate them worse."""
    pictures = four_pictures((1, 8, 8)).sample(40, torch.Generator().manual_seed(0)).clamp(0, 1)
    data = Dataset("blobs", "test", (255 * pictures).round().to(torch.uint8).numpy(), np.arange(40) % 10)
    contenders = [benchmarks.Contender("ep"), benchmarks.Contender("ep", 2, "best"), benchmarks.Contender("langevin")]
    seen = []
    rows = benchmarks.frontier(
        data,
        [ScoreOnly()] * 2,
        contenders=contenders,
        budgets=[6, 60],
        pairs=20,
        sampling=CPU,
        callback=lambda name, budget: seen.append((name, budget)),
    )
    assert seen == [("ep", 6), ("ep", 60), ("ep, best of 2", 60), ("langevin", 60)]
    assert [(row["contender"], row["budget"]) for row in rows] == seen
    assert all(row["evaluations"] == row["budget"] for row in rows)
    few, many, chosen, _ = (row["psnr"]["mean"] for row in rows)
    assert few < many
    assert chosen > few


def test_a_contender_that_fails_does_not_spoil_the_others():
    class Nan(ScoreOnly):
        def at(self, sigma):
            class Level:
                score = staticmethod(lambda x: x / 0 if sigma < 0.02 else -x)

            return Level()

    data = Dataset("noise", "test", np.zeros((9, 1, 8, 8), np.uint8), np.arange(9))
    contenders = [benchmarks.Contender("langevin"), benchmarks.Contender("project")]
    with pytest.warns(RunWarning, match="langevin with 20 evaluations"):
        rows = benchmarks.frontier(data, [Nan()] * 2, contenders=contenders, budgets=[20], pairs=2, sampling=CPU)
    assert [row["contender"] for row in rows] == ["project"]

"""What a task samples with when its user does not say, and what it says of settings that cannot be."""

from __future__ import annotations

import pytest
import torch

from basis_cli import samplers
from basis_cli.errors import UsageError
from basis_cli.operators import Mask
from basis_cli.posterior import Sampling
from basis_cli.tasks import built_in
from basis_cli.tasks.samples import Sample

DEFAULTS = {name: task.defaults for name, task in built_in().items()}


class Ladder:
    """A prior with levels of its own."""

    shape, sigmas = (1, 2, 2), (0.8, 0.4, 0.2)


class Free(Ladder):
    sigmas = None


def levels(sampling, prior=Free):
    return sampling.options([prior()]).get("sigmas")


def test_each_task_has_its_sampler():
    assert Sampling().over(DEFAULTS["separate"]).sampler == "ep"
    assert Sample().posterior([Free()], Sampling()).sampling.sampler == "project"
    assert Sample().posterior([Ladder()], Sampling()).sampling.sampler == "langevin"
    assert Sampling().over(DEFAULTS["colorize"]).sampler == "project"
    noisy = Sampling(noise_std=0.1).over(DEFAULTS["colorize"])
    assert (noisy.sampler, noisy.overrelaxation) == ("project", 0.9)
    assert Sampling("mmps").over(DEFAULTS["separate"]) == Sampling("mmps")


def test_naming_a_default_changes_nothing():
    for defaults in DEFAULTS.values():
        assert Sampling(defaults["sampler"]).over(defaults) == Sampling().over(defaults)


def test_jpeg_tells_so_much_that_little_noise_will_do():
    jpeg = Sampling().over(DEFAULTS["decompress"])
    assert (jpeg.sampler, jpeg.sigma_max, len(levels(jpeg))) == ("project", 0.2, 10)
    assert levels(jpeg)[0] == pytest.approx(0.2)
    assert levels(jpeg)[-1] == pytest.approx(0.01)
    assert Sampling(sigma_max=0.5).over(DEFAULTS["decompress"]).sigma_max == 0.5
    assert Sampling().over(DEFAULTS["colorize"]).sigma_max is None


@pytest.mark.parametrize(
    ("sampling", "prior", "first", "last", "count"),
    [
        (Sampling("ep", sigma_max=0.9), Free, 0.9, 0.03, 25),
        (Sampling("ep", levels=7), Free, 1.3, 0.03, 7),
        (Sampling("project", sigma_min=0.1), Free, 1.0, 0.1, 50),
        (Sampling("langevin", sigma_max=0.5), Free, 0.5, 0.01, 10),
        (Sampling("langevin", sigma_max=0.5), Ladder, 0.5, 0.01, 3),
        (Sampling("langevin"), Ladder, 0.8, 0.2, 3),
    ],
)
def test_levels_count_and_ends_are_set_apart(sampling, prior, first, last, count):
    sigmas = levels(sampling, prior)
    assert len(sigmas) == count
    assert (sigmas[0], sigmas[-1]) == pytest.approx((first, last))


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        (Sampling("project", sigma_max=0.01), "below the lowest"),
        (Sampling("project", sigma_min=0.0), "greater than 0"),
        (Sampling("project", sigma_max=float("nan")), "greater than 0"),
        (Sampling("average", sigma_max=1.0), "no noise levels"),
        (Sampling("langevin", overrelaxation=0.5), "no option 'overrelaxation'"),
        (Sampling("project", steps=5), "no option 'steps'"),
        (Sampling("langevin", temperature=-1.0), "greater than 0"),
        (Sampling("ep", temperature=0.5), "no option 'temperature'"),
        (Sampling("ascent", temperature=0.5), "no option 'temperature'"),
    ],
)
def test_settings_that_cannot_be_are_named(sampling, says):
    with pytest.raises(UsageError, match=says):
        sampling.options([Free()])


def test_full_overrelaxation_turns_the_old_noise_round_and_draws_none():
    seen, estimates = [], []

    class Recorder(Free):
        def at(self, sigma):
            return self

        def score(self, x):
            seen.append(x.clone())
            return -x

    samplers.project(
        [Recorder()],
        Mask(torch.tensor([[1, 0], [0, 1]]).bool()),
        torch.rand(3, 1, 2, 2),
        seeds=range(3),
        sigmas=(0.8, 0.5, 0.1),
        overrelaxation=1.0,
        watch=lambda progress: estimates.append(progress.x.clone()),
    )
    for i, ratio in enumerate((0.5 / 0.8, 0.1 / 0.5)):
        expected = estimates[i] - ratio * (seen[i].view_as(estimates[i]) - estimates[i])
        torch.testing.assert_close(seen[i + 1].view_as(expected), expected)

from dataclasses import replace

import pytest
import torch
from basis_toy.prior import four_pictures, soft_blobs

from basis_cli import samplers
from basis_cli.errors import NotFiniteError
from basis_cli.operators import Mixture, Unobserved
from basis_cli.samplers.noise import PerImageNoise

PAPER = [1.0, 0.59948425, 0.35938137, 0.21544347, 0.12915497, 0.07742637, 0.04641589, 0.02782559, 0.01668101, 0.01]
SHAPE = (1, 8, 8)
SHORT = {"sigmas": samplers.geometric(5, 1, 0.05), "steps": 10, "step_size": 5e-4}


@pytest.fixture(scope="module")
def blobs():
    return soft_blobs(SHAPE)


@pytest.fixture(scope="module")
def pictures():
    return four_pictures(SHAPE)


class Recorder:
    """A prior whose score is ``fill``; it notes at which levels and on what shapes it was called."""

    sigmas = None
    shape = (1, 2, 2)

    def __init__(self, fill=0.0):
        self.fill, self.levels, self.calls = fill, [], []

    def at(self, sigma):
        self.levels.append(sigma)
        return self

    def score(self, x):
        self.calls.append(tuple(x.shape))
        return torch.full_like(x, self.fill)


def test_ladder_is_the_papers():
    assert samplers.PAPER_SIGMAS == pytest.approx(PAPER, abs=5e-9)
    assert samplers.geometric(10, 1.0, 0.01) == samplers.PAPER_SIGMAS


def test_defaults_are_the_papers(blobs):
    seen = []
    samplers.langevin([Recorder()], Mixture([1]), torch.zeros(1, 1, 2, 2), seeds=[0], watch=seen.append)
    assert len(seen) == 10 * 100
    assert [progress.sigma for progress in seen[::100]] == pytest.approx(PAPER, abs=5e-9)


@pytest.mark.parametrize("ladder", [0, 1])
def test_one_step_is_algorithm_1_from_uniform_noise(pictures, blobs, ladder):
    """As the paper has it, and with a level of its own for each component, as much higher as it is weaker."""
    alpha, sigmas, step_size = (0.7, -0.4), (0.8, 0.2), 3e-3
    own = [(0.55 / abs(a)) ** ladder for a in alpha]
    y = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    seen = []
    samplers.langevin(
        [pictures, blobs],
        Mixture(alpha),
        y,
        seeds=[4, 5, 6],
        sigmas=sigmas,
        steps=1,
        step_size=step_size,
        ladder=ladder,
        watch=lambda progress: seen.append(progress.x.clone()),
    )
    noise = PerImageNoise([4, 5, 6])
    x = noise.uniform((2, 3, *SHAPE))
    for sigma, got in zip(sigmas, seen, strict=True):
        levels = [sigma * each for each in own]
        gamma_squared = sum((a * level) ** 2 for a, level in zip(alpha, levels, strict=True)) / 2
        residual = y - 0.7 * x[0] + 0.4 * x[1]
        z, moved = noise.normal(x.shape), []
        for i, prior in enumerate((pictures, blobs)):
            eta = step_size * levels[i] ** 2 / sigmas[-1] ** 2
            drift = prior.at(levels[i]).score(x[i]) + alpha[i] * residual / gamma_squared
            moved.append(x[i] + eta * drift + (2 * eta) ** 0.5 * z[i])
        x = torch.stack(moved)
        torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_mixing_by_sum_and_by_mean_give_the_same_samples(pictures, k):
    total = sum(pictures.sample(4, torch.Generator().manual_seed(i)) for i in range(k)).float()
    by_sum = samplers.langevin([pictures] * k, Mixture([1] * k), total, seeds=range(4), **SHORT)
    by_mean = samplers.langevin([pictures] * k, Mixture([1 / k] * k), total / k, seeds=range(4), **SHORT)
    torch.testing.assert_close(by_sum, by_mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("priors", [["pictures", "pictures"], ["pictures", "blobs"], ["blobs"] * 3])
def test_a_picture_depends_on_its_own_seed_only(priors, request):
    priors = [request.getfixturevalue(name) for name in priors]
    operator = Mixture([1 / len(priors)] * len(priors))
    seeds = [11, 3, 0, 2**40, 12, 3, 7]
    y = torch.rand(len(seeds), *SHAPE, generator=torch.Generator().manual_seed(1))
    y[5] = y[1]
    together = samplers.langevin(priors, operator, y, seeds=seeds, **SHORT)
    for part in (slice(0, 1), slice(3, 4), slice(2, 5)):
        apart = samplers.langevin(priors, operator, y[part], seeds=seeds[part], **SHORT)
        assert torch.equal(together[:, part], apart)
    assert torch.equal(together[:, 1], together[:, 5])
    backwards = samplers.langevin(priors, operator, y.flip(0), seeds=seeds[::-1], **SHORT)
    assert torch.equal(together.flip(1), backwards)


def test_other_seeds_give_other_pictures(blobs):
    x = samplers.langevin([blobs], Unobserved(SHAPE), torch.zeros(2, 0), seeds=[0, 1], **SHORT)[0]
    assert (x[0] - x[1]).abs().mean() > 0.02


def test_shared_priors_are_asked_once_for_all_their_components():
    shared, own = Recorder(1.0), Recorder(2.0)
    score = samplers.joint_score([shared, own, shared], 0.3)
    x = torch.zeros(3, 5, 1, 2, 2)
    assert score(x).flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 1]
    assert shared.calls == [(10, 1, 2, 2)]
    assert own.calls == [(5, 1, 2, 2)]
    assert shared.levels == own.levels == [0.3]


def test_joint_score_gives_each_component_its_own(pictures, blobs):
    x = torch.rand(3, 4, *SHAPE, generator=torch.Generator().manual_seed(2))
    got = samplers.joint_score([pictures, blobs, pictures], 0.5)(x)
    expected = [prior.at(0.5).score(xi) for prior, xi in zip([pictures, blobs, pictures], x, strict=True)]
    torch.testing.assert_close(got, torch.stack(expected))


def test_a_prior_is_set_to_a_level_once_not_once_a_step():
    prior = Recorder()
    samplers.langevin([prior, prior], Mixture([1, 1]), torch.zeros(1, 1, 2, 2), seeds=[0], sigmas=(1, 0.5), steps=7)
    assert prior.levels == [1, 0.5]
    assert len(prior.calls) == 14


def test_watchers_are_called_after_every_step():
    seen = []
    x = samplers.langevin(
        [Recorder()],
        Mixture([1]),
        torch.zeros(1, 1, 2, 2),
        seeds=[0],
        sigmas=(1, 0.5, 0.1),
        steps=2,
        watch=lambda progress: seen.append(replace(progress, x=progress.x.clone())),
    )
    assert [progress.step for progress in seen] == [0, 1, 2, 3, 4, 5]
    assert [progress.level for progress in seen] == [0, 0, 1, 1, 2, 2]
    assert [progress.sigma for progress in seen] == [1, 1, 0.5, 0.5, 0.1, 0.1]
    assert {progress.total for progress in seen} == {6}
    assert torch.equal(seen[-1].x, x)
    assert not torch.equal(seen[-2].x, x)


@pytest.mark.parametrize("fill", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_stops_the_run_and_names_the_level(fill):
    class FailsLate(Recorder):
        def at(self, sigma):
            self.fill = fill if sigma < 0.3 else 0.0
            return super().at(sigma)

    prior = FailsLate()
    with pytest.raises(NotFiniteError, match="3 of 3 samples are not finite at noise level 0.25") as caught:
        samplers.langevin([prior], Mixture([1]), torch.zeros(3, 1, 2, 2), seeds=range(3), sigmas=(1, 0.25, 0.1))
    assert "--step-size" in caught.value.hint
    assert prior.levels == [1, 0.25]


def test_check_finite_counts_pictures_not_components():
    x = torch.zeros(2, 4, 1, 2, 2)
    samplers.check_finite(x, 0.1)
    x[0, 1, 0, 0, 0] = x[1, 1, 0, 1, 1] = float("nan")
    x[1, 3, 0, 0, 0] = float("-inf")
    with pytest.raises(NotFiniteError, match="2 of 4"):
        samplers.check_finite(x, 0.1)


def test_ep_keeps_its_estimates_within_what_pictures_can_be():
    prior = soft_blobs((1, 4, 4), std=0.5)  # its own samples often leave [0, 1]
    operator = Mixture([0.5, 0.5])
    y = torch.tensor([0.0, 0.02, 0.5, 1.0]).view(1, 1, 1, 4).expand(2, 1, 4, 4)
    levels = []

    def keep(progress):
        levels.append(progress.x.clone())

    x = samplers.ep([prior, prior], operator, y, seeds=[1, 2], sigmas=samplers.linear(6), watch=keep)
    assert len(levels) == 6
    assert all(0 <= level.min() and level.max() <= 1 for level in levels)
    assert (operator(x) - y).abs().max() < 0.1
    assert x[..., 0].max() < 0.01  # both are black where the mixture is
    noisy = samplers.ep([prior, prior], operator, y, seeds=[1, 2], sigmas=samplers.linear(6), noise_std=0.1)
    assert noisy.min() < 0 or noisy.max() > 1  # what is left of the noise may have to go somewhere

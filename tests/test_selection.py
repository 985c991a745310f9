"""Choosing among samples: the likelihood against an exact one, alignment, answers, and what is shown of them."""

import pytest
import torch
from basis_toy.prior import four_pictures, soft_blobs

from basis_cli import tasks
from basis_cli.compute import Compute
from basis_cli.errors import UsageError
from basis_cli.posterior import Sampling, ranking

SHAPE = (1, 8, 8)


class ScoreOnly:
    """A Gaussian mixture that hides its likelihood, as a score network does."""

    def __init__(self, mixture):
        self.mixture, self.shape, self.sigmas = mixture, mixture.shape, None

    def at(self, sigma):
        class Level:
            score = staticmethod(self.mixture.at(sigma).score)

        return Level()


def pictures(n, seed=0):
    return four_pictures(SHAPE).sample(n, torch.Generator().manual_seed(seed)).float()


def test_denoising_errors_rank_pictures_as_the_exact_likelihood_does():
    prior = four_pictures(SHAPE)
    clean = pictures(6)
    strange = torch.cat([clean, clean + 0.1, clean.roll(2, -1), clean.flip(0) * 0.5 + clean * 0.5])
    exact = prior.at(ranking.SIGMAS[-1]).log_prob(strange)
    bound = ranking.log_likelihood([ScoreOnly(prior)], strange[None])
    together = torch.stack([exact, bound])
    assert together.corrcoef()[0, 1] > 0.97
    assert bound[:6].min() > bound[6:].max()


def test_each_component_has_the_log_density_of_its_own_prior_or_none():
    """Expected over the noise that is added: for a Gaussian in closed form, from that of the picture itself."""
    prior = soft_blobs(SHAPE, std=0.2, length=1.0)
    x = pictures(40)[None].repeat(2, 1, 1, 1, 1)
    found = ranking.component_log_prob([prior, ScoreOnly(prior)], x)
    assert found[1].isnan().all()
    level = prior.at(0.01)
    noise = torch.randn(400, *SHAPE, generator=torch.Generator().manual_seed(3))
    expected = torch.stack([level.log_prob(one + 0.01 * noise).mean() for one in x[0]])
    spread = level.log_prob(x[0, :1] + 0.01 * noise).std()
    assert (found[0] - expected).abs().max() < 5 * spread
    assert torch.equal(ranking.component_log_prob([prior], x[:1, 3:4])[0], found[0, 3:4])
    assert ranking.component_log_prob([ScoreOnly(prior)], x[:1]) is None


def test_differences_are_in_nats_over_a_wide_range_of_noise():
    """With the levels reaching well past the prior's own width, differences are those of the log-likelihood."""
    prior = soft_blobs(SHAPE, std=0.2, length=1.0)
    x = prior.sample(8, torch.Generator().manual_seed(1)).float()
    x = torch.cat([x, 0.5 + 1.5 * (x - 0.5)])
    sigmas = tuple(torch.logspace(1.3, -2.3, 60).tolist())
    exact = prior.log_prob(x)
    bound = ranking.log_likelihood([ScoreOnly(prior)], x[None], sigmas)
    gap = exact[:8] - exact[8:]
    torch.testing.assert_close(bound[:8] - bound[8:], gap, rtol=0.1, atol=2.0)


def test_the_likelihood_does_not_depend_on_order_or_company():
    prior = ScoreOnly(four_pictures(SHAPE))
    x = torch.stack([pictures(4, 1), pictures(4, 2)])
    both = ranking.log_likelihood([prior, prior], x)
    torch.testing.assert_close(ranking.log_likelihood([prior, prior], x.flip(0)), both)
    torch.testing.assert_close(ranking.log_likelihood([prior, prior], x[:, 2:3]), both[2:3])


def test_a_prior_with_a_likelihood_is_asked_for_it():
    prior, x = four_pictures(SHAPE), torch.stack([pictures(3, 1), pictures(3, 2)])
    level = prior.at(ranking.SIGMAS[-1])
    expected = level.log_prob(x[0]) + level.log_prob(x[1])
    torch.testing.assert_close(ranking.log_likelihood([prior, prior], x), expected)


def two_answers():
    """Six samples of two components: four of one answer (some with the components exchanged), two of another."""
    a, b, c, d = pictures(40, 3)[[0, 7, 11, 23]].split(1)
    first, second = torch.cat([a, b]), torch.cat([c, d])
    near = [first, first.flip(0), second, first.flip(0), second.flip(0), first]
    noise = 0.01 * torch.randn(2, 6, *SHAPE, generator=torch.Generator().manual_seed(4))
    return first, torch.stack(near, dim=1) + noise


def test_samples_are_ranked_aligned_and_gathered():
    first, x = two_answers()
    assert (x[:, 0] - x[:, 2]).square().mean().sqrt() > 2 * ranking.SAME_RMS
    ranked = ranking.rank(x, torch.tensor([1.0, 6, 5, 4, 3, 2]), [0, 0])
    assert ranked.log_likelihood.tolist() == [6, 5, 4, 3, 2, 1]
    assert ranked.answer == [0, 1, 0, 1, 0, 0]
    target = first.flip(0)  # as the most probable sample has it
    same = [i for i, answer in enumerate(ranked.answer) if answer == 0]
    assert all((ranked.x[:, i] - target).abs().max() < 0.06 for i in same)


def test_components_of_different_kinds_are_never_exchanged():
    _, x = two_answers()
    ranked = ranking.rank(x, torch.arange(6, 0, -1.0), [0, 1])
    assert torch.equal(ranked.x, x)
    assert ranked.answer == [0, 1, 2, 1, 3, 0]


def test_what_is_shown():
    first, x = two_answers()
    ranked = ranking.rank(x, torch.tensor([6.0, 5, 1, 4, 2, 3]), [0, 0])
    assert ranked.select("all").shape == (2, 6, *SHAPE)
    assert torch.equal(ranked.select("best"), x[:, :1])
    error = {how: (ranked.select(how)[:, 0] - first).square().mean() for how in ("best", "mode", "mean")}
    assert error["mode"] < 0.5 * error["best"] < error["mean"]  # four samples of noise against one; wrong ones spoil it
    assert ranked.std.shape == (2, *SHAPE)


def test_separate_says_how_sure_it_is():
    """A mixture of a bar with itself has one answer; of two different pictures, either may be either: still one."""
    prior = four_pictures(SHAPE)
    y = (prior.means[0] + prior.means[1]).view(1, *SHAPE).float() / 2
    run = {"prior": prior, "samples": 6, "sampling": Sampling("project", levels=20)}
    result = tasks.separate(y, **run)
    assert result.components.shape == (2, 1, 6, *SHAPE)
    assert result.log_likelihood.shape == (1, 6)
    assert (result.log_likelihood.diff() <= 0).all()
    assert sum(result.answers[0]) == 6
    assert result.std.shape == (2, 1, *SHAPE)
    best = tasks.separate(y, select="best", **run)
    assert torch.equal(best.components[:, :, 0], result.components[:, :, 0])
    mean = tasks.separate(y, select="mean", **run).components[:, 0, 0]
    parts = result.components[:, 0].mean(1)  # the mean of all may be in another order than the most probable
    assert min((mean - each).abs().max() for each in (parts, parts.flip(0))) < 0.02
    with pytest.raises(UsageError, match="median"):
        tasks.separate(y, select="median", **run)


def test_the_evaluations_of_all_samples_and_of_their_scores_are_counted():
    prior, y = ScoreOnly(four_pictures(SHAPE)), torch.full((3, *SHAPE), 0.4)
    single = tasks.separate(y, prior=prior, sampling=Sampling("project", levels=7))
    assert single.evaluations == 7
    assert single.log_likelihood is None
    several = tasks.separate(
        y, prior=prior, samples=4, sampling=Sampling("project", levels=7), compute=Compute(batch=5)
    )
    assert several.evaluations == 4 * (7 + len(ranking.SIGMAS))
    split = tasks.separate(y, prior=prior, alpha=[0.7, 0.3], sampling=Sampling("ep", levels=7))
    assert split.evaluations == 14
    derivatives = tasks.separate(y, prior=prior, sampling=Sampling("mmps", levels=7))
    assert derivatives.evaluations == 7 * (1 + 2 * 3)

"""The mixture of Gaussians beside a Glow: its density at every noise level, learning it, its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_glow import prior, training
from basis_glow.gaussians import Gaussians
from basis_glow.network import SHARE_RATE, Glow
from safetensors.torch import load_file
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from basis_cli.data.datasets import Dataset
from basis_cli.errors import UsageError
from basis_cli.training import Settings

TINY = {"levels": 2, "depth": 2, "width": 8, "conditional": True}
MIXED = TINY | {"gaussians": 3, "directions": 4}
LEVELS = torch.tensor([0.0, 0.01, 0.1, 0.6, 1.0])
VARIANCES, REST = (0.5, 0.2), 0.01


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def some(size: int = 6, k: int = 3, r: int = 2) -> Gaussians:
    gaussians = Gaussians(size, k, r).requires_grad_(False)
    gaussians.means.copy_(torch.randn(k, size))
    gaussians.log_variances.copy_(torch.randn(k, r))
    gaussians.log_rest.copy_(torch.randn(k) - 2)
    gaussians.logits.copy_(torch.randn(k))
    gaussians.directions.copy_(torch.linalg.qr(torch.randn(k, size, r))[0].mT)
    return gaussians


def reference(g: Gaussians, sigma: float) -> MixtureSameFamily:
    u, size = g.directions.double().mT, g.size
    along = u @ torch.diag_embed(g.log_variances.exp()).double() @ u.mT
    covariance = along + (g.log_rest.exp() + sigma**2)[:, None, None] * torch.eye(size, dtype=torch.float64)
    return MixtureSameFamily(Categorical(logits=g.logits), MultivariateNormal(g.means.double(), covariance))


def balanced(net: Glow, x: Tensor, sigma: Tensor) -> Tensor:
    """Choose the shares so that at ``sigma`` flow and Gaussians speak alike of ``x``; returns ``log p_flow(x)``."""
    latents, log_det = net.encode(x, sigma)
    z = torch.cat([part.flatten(1) for part in latents], dim=1)
    flow = Normal(0, 1).log_prob(z).sum(1) + log_det
    net.share.weight.zero_()
    net.share.bias.copy_((net.gaussians(x.flatten(1), sigma) - flow).mean() / SHARE_RATE)
    return flow


def clusters(n: int, size: int = 16) -> Tensor:
    """Draws from three Gaussians about the rows of 4 I, each with two directions of large variance."""
    directions = torch.linalg.qr(torch.randn(3, size, 2, generator=torch.Generator().manual_seed(5)))[0]
    generator = torch.Generator().manual_seed(6)
    which = torch.randint(3, (n,), generator=generator)
    z = torch.randn(n, 2, generator=generator) * torch.tensor(VARIANCES).sqrt()
    noise = REST**0.5 * torch.randn(n, size, generator=generator)
    return 4 * torch.eye(3, size)[which] + torch.einsum("ndr,nr->nd", directions[which], z) + noise


# --- the density -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", LEVELS.tolist())
def test_density_is_that_of_gaussians_with_the_noise_added(sigma):
    g, x = some(), torch.randn(20, 6)
    expected = reference(g, sigma).log_prob(x.double()).float()
    torch.testing.assert_close(g(x, torch.full((1,), sigma)), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(g(x, torch.full((20,), sigma)), expected, rtol=1e-4, atol=1e-3)


def test_what_is_said_of_a_picture_does_not_depend_on_the_others():
    """To the last bit; its gradient neither."""
    g, x, level = some(784, 10, 20), torch.rand(40, 784).requires_grad_(), torch.tensor([0.6])
    together = g(x, level)
    (slope,) = torch.autograd.grad(together.sum(), x)
    for n in (1, 2, 3, 5, 9, 17):
        part = x[:n].detach().requires_grad_()
        assert torch.equal(g(part, level), together[:n])
        assert torch.equal(torch.autograd.grad(g(part, level).sum(), part)[0], slope[:n])


def test_samples_have_the_mean_and_covariance_of_the_density():
    g, sigma = some(), 0.3
    x = g.sample(200_000, torch.Generator().manual_seed(0), torch.tensor([sigma]))
    parts = reference(g, sigma)
    share, means = parts.mixture_distribution.probs.double(), parts.component_distribution.mean
    centred = means - parts.mean
    covariance = torch.einsum("k,kde->de", share, parts.component_distribution.covariance_matrix)
    covariance += torch.einsum("k,kd,ke->de", share, centred, centred)
    torch.testing.assert_close(x.mean(0).double(), parts.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x.T.cov().double(), covariance, rtol=0.05, atol=0.03)
    cold = g.sample(1000, torch.Generator().manual_seed(0), torch.tensor([sigma]), temperature=0.0)
    assert len(cold.unique(dim=0)) == 3, "without noise, the means"


@pytest.mark.parametrize("sigma", LEVELS)
def test_a_glow_with_gaussians_is_a_mixture_of_both(sigma):
    net, x, level = Glow((1, 8, 8), **MIXED).requires_grad_(False), torch.rand(4, 1, 8, 8), sigma[None]
    flow, others = balanced(net, x, level), net.gaussians(x.flatten(1), level)
    share = float(torch.sigmoid(SHARE_RATE * net.share.bias))
    parts = torch.stack([flow.double() + math.log(share), others.double() + math.log1p(-share)])
    assert (parts.softmax(0) > 1e-3).all(), "one of both says nothing, or this test shows nothing"
    torch.testing.assert_close(net(x, level).double(), parts.exp().sum(0).log(), rtol=1e-5, atol=1e-3)


def test_the_mixture_integrates_to_one_and_is_what_is_sampled():
    """Over four pixels: importance sampling from a Gaussian as wide as the model."""
    net = Glow((1, 2, 2), levels=1, depth=1, width=4, conditional=True, gaussians=2, directions=1).requires_grad_(False)
    net.gaussians.means.copy_(torch.tensor([[0.0, 0, 0, 0], [3, 3, 3, 3]]))
    net.share.bias.fill_(-0.1)
    level = torch.tensor([0.3])
    samples = net.sample(20_000, torch.Generator().manual_seed(0), level).flatten(1)
    proposal = MultivariateNormal(samples.mean(0), 2 * samples.T.cov())
    x = proposal.sample((200_000,))
    weights = (net(x.view(-1, 1, 2, 2), level) - proposal.log_prob(x)).exp()
    assert float(weights.mean()) == pytest.approx(1, abs=0.03)
    torch.testing.assert_close((weights[:, None] * x).mean(0), samples.mean(0), rtol=0, atol=0.05)


def test_the_score_and_what_it_learns_stay_finite_where_one_of_both_has_no_chance():
    """Hundreds of nats apart the ratio of the densities is no float32."""
    net = Glow((1, 8, 8), **MIXED)
    with torch.no_grad():
        net.gaussians.means += 9
    x = torch.rand(5, 1, 8, 8)
    level = prior.GlowPrior(net, None).at(0.01)
    assert level.score(x).isfinite().all()
    net.requires_grad_(True)
    bits, error = training.bits_and_score_error(net, x, LEVELS, torch.Generator().manual_seed(0))
    (bits + error).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("sigma", [0.05, 0.6])
def test_score_is_the_gradient_of_both(sigma):
    net = Glow((1, 8, 8), **MIXED).requires_grad_(False)
    x, direction, h = torch.rand(5, 1, 8, 8), torch.randn(5, 1, 8, 8), 1e-3
    balanced(net, x, torch.tensor([sigma]))
    level = prior.GlowPrior(net, None).at(sigma)
    others = net.gaussians
    net.gaussians = None
    alone = level.score(x)
    net.gaussians = others
    assert (level.score(x) - alone).norm() > 0.01 * alone.norm(), (
        "the Gaussians say nothing, or this test shows nothing"
    )
    score = level.score(x)
    slope = (level.log_prob(x + h * direction).double() - level.log_prob(x - h * direction).double()) / (2 * h)
    torch.testing.assert_close((score * direction).flatten(1).sum(1), slope.float(), rtol=5e-3, atol=0.2)


@pytest.mark.parametrize("config", [{"conditional": False}, {"directions": 0}, {"directions": 64}])
def test_what_cannot_be_built_is_refused(config):
    with pytest.raises(ValueError, match="Gaussians"):
        Glow((1, 8, 8), **MIXED | config)


# --- learning it -----------------------------------------------------------------------------------------------------


def test_expectation_maximization_finds_the_gaussians():
    g = Gaussians(16, 3, 2)
    g.fit(clusters(6000))
    order = g.means.detach()[:, :3].argmax(0)
    torch.testing.assert_close(g.means.detach()[order], 4 * torch.eye(3, 16), rtol=0, atol=0.06)
    torch.testing.assert_close(g.logits.softmax(0), torch.full((3,), 1 / 3), rtol=0, atol=0.03)
    torch.testing.assert_close(g.log_variances.exp(), torch.tensor([VARIANCES]).repeat(3, 1), rtol=0.1, atol=0)
    torch.testing.assert_close(g.log_rest.exp(), torch.full((3,), REST), rtol=0.05, atol=0)
    torch.testing.assert_close(g.directions @ g.directions.mT, torch.eye(2).repeat(3, 1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("different", "values", "copies"), [(5, 16, 1), (1, 16, 40), (7, 1, 6)])
def test_few_or_equal_pictures_still_make_a_density(different, values, copies):
    x = torch.rand(different, values).repeat(copies, 16 // values)
    g = Gaussians(16, 5, 3)
    g.fit(x)
    log_prob = g(x, torch.zeros(1))
    assert log_prob.isfinite().all()
    assert (log_prob > g(x + 1, torch.zeros(1))).all()
    assert (x.amin(0) - 0.01 < g.means).all()
    assert (g.means < x.amax(0) + 0.01).all(), "also one that has no picture"


def dataset(n: int = 60) -> Dataset:
    images = (255 * (0.2 + 0.15 * clusters(n, 64)).clamp(0, 1)).byte().view(n, 1, 8, 8).numpy()
    return Dataset("clusters", "train", images, np.zeros(n, int))


def train(
    out: Path, *, resume: bool = False, start_from: Path | None = None, config=MIXED, pictures: int = 60, **settings
) -> Path:
    settings = {"steps": 4, "batch": 8, "sheet_every": 100, "bf16": False} | settings
    data, side = dataset(pictures), settings.get("crops", (8,))[0]
    held_out = Dataset("clusters", "test", data.images[..., :side, :side], data.labels)
    return training.train(
        data, held_out, out, Settings(**settings), config=config, device="cpu", resume=resume, start_from=start_from
    )


def fitted(net: Glow) -> bool:
    """Whether its Gaussians know the pictures of :func:`dataset`."""
    x = dataset()[:].flatten(1)
    new = Glow((1, 8, 8), **MIXED).gaussians
    return bool(net.gaussians(x, torch.ones(1)).mean() > new(x, torch.ones(1)).mean() + 1)


def test_training_begins_with_gaussians_of_the_pictures_and_goes_on_with_them(tmp_path):
    begun = prior.read(train(tmp_path / "first", steps=1, learning_rate=0.0))[0]
    assert fitted(begun)
    with torch.no_grad():
        begun.share.bias.fill_(-5.0)  # give them all to say, for a flow so new has the better guess
    prior.save(tmp_path / "begun.safetensors", begun, None, {})
    before = load_file(tmp_path / "begun.safetensors")
    moved = load_file(
        train(tmp_path / "later", start_from=tmp_path / "begun.safetensors", learning_rate=0.02, warmup=1)
    )
    torch.testing.assert_close(moved["gaussians.directions"], before["gaussians.directions"], rtol=0, atol=8e-3)
    for name in ("means", "log_variances", "log_rest", "logits"):
        assert (moved[f"gaussians.{name}"] - before[f"gaussians.{name}"]).abs().max() > 0.01, name


def test_gaussians_may_join_a_flow_but_not_leave_it(tmp_path):
    flow = train(tmp_path / "flow", config=TINY)
    both = train(tmp_path / "both", start_from=flow, steps=1, learning_rate=0.0)
    ours, alone = prior.read(both)[0], prior.read(flow)[0]
    assert ours.config == alone.config | {"gaussians": 3, "directions": 4}
    x, sigma = dataset()[:4], torch.zeros(1)
    torch.testing.assert_close(ours.encode(x, sigma)[1], alone.encode(x, sigma)[1])
    assert fitted(ours)
    for config, differ in (
        (TINY, "gaussians 3, directions 4"),
        (MIXED | {"gaussians": 2}, "gaussians 3"),
        (MIXED | {"directions": 3}, "directions 4"),
    ):
        with pytest.raises(UsageError, match="another network") as caught:
            train(tmp_path / "other", start_from=both, config=config)
        assert caught.value.hint == f"it has {differ}"
    torch.testing.assert_close(ours.of_level(0.1)(x), alone(x, torch.tensor([0.1])), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("joining", [False, True])
def test_a_killed_run_goes_on_as_the_unbroken_one(tmp_path, joining):
    """Also one that began with the weights of a flow: the Gaussians are not fitted anew."""
    more = {"start_from": train(tmp_path / "flow", config=TINY)} if joining else {}
    train(tmp_path / "killed", steps=3, decay="constant", **more)
    resumed = load_file(train(tmp_path / "killed", steps=6, decay="constant", resume=True, **more))
    unbroken = load_file(train(tmp_path / "unbroken", steps=6, decay="constant", **more))
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    with pytest.raises(UsageError, match="already holds a training run"):
        train(tmp_path / "killed")


def test_learns_squares_mirrored_pictures_and_behind_a_whitening(tmp_path):
    path = train(tmp_path, config=MIXED | {"levels": 1, "whiten": 3}, crops=(4,), flip=True, steps=1, learning_rate=0.0)
    net = prior.read(path)[0]
    assert net.shape == (1, 4, 4)
    x = dataset()[:][..., 2:6, 2:6].flatten(1)
    assert net.gaussians(x, torch.zeros(1)).mean() > net.gaussians(x + 0.5, torch.zeros(1)).mean()


def test_files_keep_directions_in_half_precision_and_read_them_as_orthonormal(tmp_path):
    net = Glow((1, 8, 8), **MIXED).requires_grad_(False)
    net.gaussians.fit(dataset()[:].flatten(1))
    prior.save(tmp_path / "w.safetensors", net, None, {})
    assert load_file(tmp_path / "w.safetensors")["gaussians.directions"].dtype == torch.bfloat16
    again, sigma = prior.read(tmp_path / "w.safetensors")
    assert sigma is None
    assert again.config == net.config
    u = again.gaussians.directions
    torch.testing.assert_close(u @ u.mT, torch.eye(4).repeat(3, 1, 1), rtol=0, atol=1e-5)
    x = dataset()[:]
    for level in LEVELS:
        torch.testing.assert_close(again(x, level[None]), net(x, level[None]), rtol=5e-3, atol=1.0)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"conditional": False}, "need noise levels"),
        ({"gaussians": 21}, "20 pictures are too few"),
        ({"directions": 21}, "20 pictures are too few"),
        ({"directions": 64}, "64 directions of 64"),
    ],
)
def test_what_cannot_be_learned_is_refused(tmp_path, config, reason):
    with pytest.raises(UsageError, match=reason):
        train(tmp_path, config=MIXED | config, pictures=20)


def test_metrics_of_a_run_are_those_of_the_mixture(tmp_path):
    path = train(tmp_path, sheet_every=4)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    measured = training.measured(prior.read(path)[0], dataset()[:], [1.0])
    assert last["bits_per_dim_1"] == pytest.approx(measured["bits_per_dim_1"], abs=2e-3)
    assert (tmp_path / "samples-0000004.png").exists()

"""Glow: an exact, invertible map, and the density that it gives pictures."""

from __future__ import annotations

import math

import pytest
import torch
from basis_glow import gaussians, network, objectives
from basis_glow.network import Glow
from torch import Tensor

TINY = {"levels": 2, "depth": 2, "width": 8}


TINY = {"levels": 2, "depth": 2, "width": 8}
LEVELS = torch.tensor([0.0, 0.01, 0.0278, 0.0774, 0.215, 0.6, 1.0])


@pytest.mark.parametrize("config", [{}, {"conditional": True}, {"conditional": True, "whiten": 5, "smooth": True}])
@pytest.mark.parametrize(("shape", "levels"), [((1, 8, 8), 2), ((3, 4, 8), 1), ((1, 8, 8), 3)])
def test_log_determinant_is_that_of_the_jacobian(shape, levels, config, glow, pictures):
    net = glow(shape, **config, levels=levels)
    x = pictures(2, shape)
    for sigma in (0.0, 0.05, 1.0):
        s = torch.full((2,), sigma)
        latents, log_det = net.encode(x, s)
        assert sum(z[0].numel() for z in latents) == x[0].numel()
        for i in range(2):

            def flat(v: Tensor, s: Tensor = s) -> Tensor:
                return torch.cat([z.flatten() for z in net.encode(v.view(1, *shape), s[:1])[0]])

            jacobian = torch.autograd.functional.jacobian(flat, x[i].flatten())
            assert float(torch.linalg.slogdet(jacobian.double())[1]) == pytest.approx(float(log_det[i]), abs=2e-3)


@pytest.mark.parametrize(("smooth", "jumps"), [(False, True), (True, False)])
def test_the_score_of_smooth_couplings_is_continuous(smooth, jumps, roughened, pictures):
    """Halving the step along a line halves the change of a continuous score, and leaves a jump as it is."""
    net = roughened(Glow((1, 8, 8), **TINY, smooth=smooth), 0.3).requires_grad_(False)

    def largest_change(step: float) -> float:
        at = pictures(1) + torch.arange(round(1 / step))[:, None, None, None] * step
        score = torch.autograd.functional.vjp(lambda x: net(x).sum(), at)[1]
        return float((score[1:] - score[:-1]).abs().max())

    assert (largest_change(5e-4) > 0.7 * largest_change(1e-3)) == jumps


def test_whitening_is_exact_at_every_noise_level(pictures, whitened):
    net, x = whitened(), pictures(len(LEVELS))
    latents, _ = net.encode(x, LEVELS)
    torch.testing.assert_close(net.inverse(latents, LEVELS), x, atol=1e-5, rtol=0)
    _, log_det = net.whitening(x, LEVELS)
    for level, expected in zip(LEVELS, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, s=level: net.whitening(v.view(1, 1, 8, 8), s[None])[0].flatten(), x[0].flatten()
        )
        assert float(torch.linalg.slogdet(jacobian.double())[1]) == pytest.approx(float(expected), abs=1e-3)


def test_behind_a_whitening_the_flow_fades_as_noise_comes_in(pictures, whitened):
    net, x = whitened(), pictures(4)
    moved = []
    for sigma in (0.01, 0.3, 1.0):
        level = torch.full((1,), sigma)
        z, _ = net.whitening(x, level)
        energy = sum(latent.square().sum() for latent in net.encode(x, level)[0])
        moved.append(float((energy / z.square().sum()).log().abs()))
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 0.05 * moved[0]
    torch.testing.assert_close(
        net._noise(LEVELS).strength.flatten(), (0.09 / (LEVELS**2 + 0.09)).square(), rtol=1e-5, atol=0
    )


def test_behind_a_whitening_a_new_flow_is_a_rotation_and_its_mixing_stays_one(correlated):
    fresh = Glow((1, 8, 8), **TINY, conditional=True, whiten=6)
    fresh.whitening.fit(correlated(500))
    x = correlated(len(LEVELS))
    fresh.initialize(x, LEVELS)
    z, expected = fresh.whitening(x, LEVELS)
    latents, log_det = fresh.encode(x, LEVELS)
    torch.testing.assert_close(log_det, expected, rtol=1e-5, atol=1e-3)
    energy = sum(latent.square().flatten(1).sum(1) for latent in latents)
    torch.testing.assert_close(energy, z.square().flatten(1).sum(1), rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for step in fresh.steps() for p in step.mix.parameters())


def test_whitening_makes_noisy_pictures_white_at_much_noise_and_scales_them_at_little(correlated, whitened):
    net, x = whitened(), correlated(20_000)
    z, _ = net.whitening(x + torch.randn(x.shape), torch.ones(1))
    z = z.flatten(1)
    assert z.mean(0).abs().max() < 0.1
    off_white = z.T.cov() - torch.eye(64)
    plain = (x + torch.randn(x.shape)).flatten(1) / (1 + gaussians.DATA_STD**2) ** 0.5
    assert torch.linalg.matrix_norm(off_white, 2) < 0.2 < torch.linalg.matrix_norm(plain.T.cov() - torch.eye(64), 2)
    z, _ = net.whitening(x, torch.zeros(1))
    torch.testing.assert_close(z.flatten(1), (x.flatten(1) - net.whitening.mean) / gaussians.DATA_STD)


@pytest.mark.parametrize("conditional", [False, True])
def test_inverse_undoes_encode_at_every_noise_level(conditional, glow, pictures):
    net = glow((3, 8, 8), conditional, depth=6)
    x = pictures(len(LEVELS), (3, 8, 8))
    x = x + LEVELS[:, None, None, None] * torch.randn(x.shape)
    assert (net.inverse(net.encode(x, LEVELS)[0], LEVELS) - x).abs().max() < 1e-5


def test_log_prob_is_the_noise_density_times_the_determinant(glow, pictures):
    net, x = glow(), pictures(3)
    latents, log_det = net.encode(x)
    z = torch.cat([part.flatten(1) for part in latents], dim=1)
    normal = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(net(x), normal + log_det)


def test_density_integrates_to_one(roughened):
    """Over four pixels: importance sampling from a Gaussian as wide as the model."""
    net = roughened(Glow((1, 2, 2), levels=1, depth=2, width=8), 0.3).requires_grad_(False)
    samples = net.sample(4000, torch.Generator().manual_seed(0)).flatten(1)
    proposal = torch.distributions.MultivariateNormal(samples.mean(0), 2 * samples.T.cov() + 1e-3 * torch.eye(4))
    x = proposal.sample((60_000,))
    weights = (net(x.view(-1, 1, 2, 2)) - proposal.log_prob(x)).exp()
    assert float(weights.mean()) == pytest.approx(1, abs=0.03)
    assert float(weights.std()) > 0.05, "the proposal is not the model, or this test shows nothing"


def test_samples_have_the_density(glow):
    """What :meth:`sample` draws is what :meth:`encode` makes white noise of, of the chosen temperature."""
    net = glow()
    x = net.sample(500, torch.Generator().manual_seed(0))
    latents, _ = net.encode(x)
    z = torch.cat([part.flatten(1) for part in latents], dim=1)
    assert float(z.mean()) == pytest.approx(0, abs=0.02)
    assert float(z.var()) == pytest.approx(1, abs=0.03)
    cold = net.sample(500, torch.Generator().manual_seed(0), temperature=0.5)
    assert torch.cat([part.flatten(1) for part in net.encode(cold)[0]], dim=1).var() == pytest.approx(0.25, abs=0.01)


def test_bits_per_dim_of_uniform_intensities_is_eight():
    """A density of one over the 256 intensities (each an interval of 1/255) is log2(255) + log2(256 / 255)."""
    log_prob = torch.full((1,), -64 * math.log(256 / 255))
    assert float(objectives.bits_per_dim(log_prob, 64)) == pytest.approx(8, abs=1e-5)


@pytest.mark.parametrize("conditional", [False, True])
def test_initialization_from_data_normalizes_every_activation(conditional, pictures):
    net = Glow((1, 8, 8), **TINY, conditional=conditional)
    x = 0.2 + 0.1 * pictures(64)
    level = torch.full((64,), 0.1)
    net.initialize(x, level)
    step = net.levels[0][0]
    scaled = net.whitening(x, level)[0] if conditional else x - 0.5
    z = torch.nn.functional.pixel_unshuffle(scaled, 2)
    log_scale, bias = step.actnorm.at(net._noise(level))
    seen = (z + bias) * log_scale.exp()
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    before = net(x, level)
    net.encode(x + 1, level)
    assert torch.equal(net(x, level), before), "only initialize may change anything"


def test_a_conditional_model_is_consistent_across_noise_levels(glow, pictures):
    net = glow(conditional=True)
    x = pictures(len(LEVELS))
    together = net(x, LEVELS)
    for i in range(len(LEVELS)):  # one level for all goes another way through the network
        torch.testing.assert_close(net(x, LEVELS[i : i + 1])[i], together[i], rtol=1e-4, atol=1e-3)
    same = x[:1].expand(len(LEVELS), -1, -1, -1)
    assert len(set(net(same, LEVELS).tolist())) == len(LEVELS), "it must see the level"
    close = net(same[:2], torch.tensor([0.1, 0.1001]))
    far = net(same[:2], torch.tensor([0.1, 0.2]))
    assert (close[0] - close[1]).abs() < 0.02 * (far[0] - far[1]).abs()


def test_half_precision_keeps_the_density_exact(glow, pictures):
    """Under autocast only the networks in the couplings are rounded: another density, but a density of its own map."""
    net, x = glow(depth=4), pictures(2)
    with torch.autocast("cpu", torch.bfloat16):
        latents, log_det = net.encode(x)
        back = net.inverse(latents)
    assert all(z.dtype == torch.float32 for z in [*latents, log_det, back])
    assert (back - x).abs().max() < 1e-5
    full = net.encode(x)[1]
    assert 0 < (log_det - full).abs().max() < 0.5


@pytest.mark.parametrize("config", [{"levels": 3}, {"depth": 0}, {"width": 0}])
def test_what_cannot_be_built_is_refused(config):
    with pytest.raises(ValueError, match="halved 3 times|below one"):
        Glow((1, 28, 28), **TINY | config)


def test_recomputing_activations_gives_the_same_gradients(monkeypatch, roughened, pictures):
    net = roughened(Glow((1, 8, 8), **TINY, conditional=True))
    x, sigma = pictures(3), torch.tensor([0.1, 0.2, 0.3])

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(net(x, sigma).sum(), [p for p in net.parameters()]))

    kept = gradients()
    calls = []
    real = network.checkpoint
    monkeypatch.setattr(network, "checkpoint", lambda *a, **k: calls.append(1) or real(*a, **k))
    monkeypatch.setattr(network, "MEMORY", 1)
    for before, after in zip(kept, gradients(), strict=True):
        torch.testing.assert_close(before, after)
    assert len(calls) == 4


@pytest.mark.parametrize("smooth", [False, True])
def test_what_a_gradient_keeps_is_known(smooth, pictures):
    """``activation_bytes`` decides how many pictures go through at once."""
    net = Glow((1, 16, 16), levels=2, depth=4, width=64, smooth=smooth).requires_grad_(False)
    x, kept = pictures(8, (1, 16, 16)).requires_grad_(), {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x).sum()
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    activations = sum(size for place, size in kept.items() if place not in weights) / len(x)
    assert 0.7 < activations / net.activation_bytes() < 1.3

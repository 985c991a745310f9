"""Glow: an exact density, its score, its files and ladders, training, fine-tuning, TensorFlow checkpoints."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from basis_glow import convert, gaussians, network, objectives, prior, training
from basis_glow.network import Glow
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from basis_cli import samplers
from basis_cli.api import PriorSpec
from basis_cli.data.datasets import Dataset
from basis_cli.errors import BasisError, InputError, NotFiniteError, UsageError, WeightsError
from basis_cli.operators import Mixture
from basis_cli.training import Settings

TINY = {"levels": 2, "depth": 2, "width": 8}
LEVELS = torch.tensor([0.0, 0.01, 0.0278, 0.0774, 0.215, 0.6, 1.0])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def roughened(net: Glow, amount: float = 0.05) -> Glow:
    """``net`` with noise on every parameter: as initialized, some are zero and hide what is behind them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, net.parameters()):
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return net


def glow(shape=(1, 8, 8), conditional=False, **config) -> Glow:
    return roughened(Glow(shape, **TINY | config, conditional=conditional)).requires_grad_(False)


def pictures(n: int, shape=(1, 8, 8)) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def correlated(n: int) -> Tensor:
    """Pictures of 8 x 8 pixels about 0.4 with four directions of large variance, and a little in all others."""
    generator = torch.Generator().manual_seed(2)
    patterns = torch.randn(4, 64, generator=generator) / 7
    flat = torch.randn(n, 4, generator=generator) @ patterns + 0.02 * torch.randn(n, 64, generator=generator)
    return (0.4 + flat).view(n, 1, 8, 8)


def whitened(**config) -> Glow:
    net = glow(conditional=True, whiten=6, **config)
    net.whitening.fit(correlated(500))
    return net


# --- the map and its density -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"conditional": True}, {"conditional": True, "whiten": 5, "smooth": True}])
@pytest.mark.parametrize(("shape", "levels"), [((1, 8, 8), 2), ((3, 4, 8), 1), ((1, 8, 8), 3)])
def test_log_determinant_is_that_of_the_jacobian(shape, levels, config):
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
def test_the_score_of_smooth_couplings_is_continuous(smooth, jumps):
    """Halving the step along a line halves the change of a continuous score, and leaves a jump as it is."""
    net = roughened(Glow((1, 8, 8), **TINY, smooth=smooth), 0.3).requires_grad_(False)

    def largest_change(step: float) -> float:
        at = pictures(1) + torch.arange(round(1 / step))[:, None, None, None] * step
        score = torch.autograd.functional.vjp(lambda x: net(x).sum(), at)[1]
        return float((score[1:] - score[:-1]).abs().max())

    assert (largest_change(5e-4) > 0.7 * largest_change(1e-3)) == jumps


def test_whitening_is_exact_at_every_noise_level():
    net, x = whitened(), pictures(len(LEVELS))
    latents, _ = net.encode(x, LEVELS)
    torch.testing.assert_close(net.inverse(latents, LEVELS), x, atol=1e-5, rtol=0)
    _, log_det = net.whitening(x, LEVELS)
    for level, expected in zip(LEVELS, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, s=level: net.whitening(v.view(1, 1, 8, 8), s[None])[0].flatten(), x[0].flatten()
        )
        assert float(torch.linalg.slogdet(jacobian.double())[1]) == pytest.approx(float(expected), abs=1e-3)


def test_behind_a_whitening_the_flow_fades_as_noise_comes_in():
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


def test_behind_a_whitening_a_new_flow_is_a_rotation_and_its_mixing_stays_one():
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


def test_whitening_makes_noisy_pictures_white_at_much_noise_and_scales_them_at_little():
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
def test_inverse_undoes_encode_at_every_noise_level(conditional):
    net = glow((3, 8, 8), conditional, depth=6)
    x = pictures(len(LEVELS), (3, 8, 8))
    x = x + LEVELS[:, None, None, None] * torch.randn(x.shape)
    assert (net.inverse(net.encode(x, LEVELS)[0], LEVELS) - x).abs().max() < 1e-5


def test_log_prob_is_the_noise_density_times_the_determinant():
    net, x = glow(), pictures(3)
    latents, log_det = net.encode(x)
    z = torch.cat([part.flatten(1) for part in latents], dim=1)
    normal = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(net(x), normal + log_det)


def test_density_integrates_to_one():
    """Over four pixels: importance sampling from a Gaussian as wide as the model."""
    net = roughened(Glow((1, 2, 2), levels=1, depth=2, width=8), 0.3).requires_grad_(False)
    samples = net.sample(4000, torch.Generator().manual_seed(0)).flatten(1)
    proposal = torch.distributions.MultivariateNormal(samples.mean(0), 2 * samples.T.cov() + 1e-3 * torch.eye(4))
    x = proposal.sample((60_000,))
    weights = (net(x.view(-1, 1, 2, 2)) - proposal.log_prob(x)).exp()
    assert float(weights.mean()) == pytest.approx(1, abs=0.03)
    assert float(weights.std()) > 0.05, "the proposal is not the model, or this test shows nothing"


def test_samples_have_the_density():
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
def test_initialization_from_data_normalizes_every_activation(conditional):
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


def test_a_conditional_model_is_consistent_across_noise_levels():
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


def test_half_precision_keeps_the_density_exact():
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


def test_recomputing_activations_gives_the_same_gradients(monkeypatch):
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
def test_what_a_gradient_keeps_is_known(smooth):
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


# --- the prior -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [False, True])
def test_score_is_the_gradient_of_log_prob(conditional):
    net = glow(conditional=conditional).double()
    level = prior.GlowPrior(net, None if conditional else 0.1).at(0.1)
    x, direction = pictures(3), torch.randn(3, 1, 8, 8)
    h = 1e-3
    net.float()
    with torch.inference_mode():
        score = level.score(x)
        slope = (level.log_prob(x + h * direction).double() - level.log_prob(x - h * direction).double()) / (2 * h)
    assert score.shape == x.shape
    torch.testing.assert_close((score * direction).flatten(1).sum(1), slope.float(), rtol=5e-3, atol=0.2)


def test_score_and_log_prob_inside_inference_mode_and_autocast():
    level = prior.GlowPrior(glow(), 0.1).at(0.1)
    x = pictures(4)
    outside, likelihood = level.score(x), level.log_prob(x)
    with torch.inference_mode():
        assert torch.equal(level.score(x.clone()), outside)
        with torch.autocast("cpu", torch.bfloat16):
            half = level.score(x)
            assert torch.equal(level.log_prob(x), likelihood), "a likelihood is always computed in full precision"
    assert half.dtype == torch.float32
    assert 0 < (half - outside).norm() < 0.1 * outside.norm()
    assert not outside.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [{}, {"whiten": 5}, {"gaussians": 3, "directions": 4}])
def test_a_pictures_score_does_not_depend_on_its_batch(monkeypatch, config, dtype):
    """To the last bit: at much noise the smallest difference may end in another picture."""
    level = prior.GlowPrior(glow(conditional=True, width=32, **config), None).at(0.6)
    x = pictures(40)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        together = level.score(x)
        for part in (slice(0, 1), slice(2, 3), slice(3, 5), slice(7, 10), slice(1, 20)):
            assert torch.equal(level.score(x[part]), together[part])
        monkeypatch.setattr(prior, "MEMORY", 15 * level.network.activation_bytes())
        assert [len(part) for part in level._parts(x)] == [14, 13, 13]
        assert torch.equal(level.score(x), together)
    torch.testing.assert_close(level.log_prob(x), level.network(x, torch.tensor([0.6])))


def test_a_model_of_one_level_stands_in_for_its_neighbours_only():
    one = prior.GlowPrior(glow(), 0.1)
    assert one.sigmas == (0.1,)
    x = pictures(2)
    torch.testing.assert_close(one.at(0.125).score(x), one.at(0.1).score(x) * 0.8)
    for sigma in (0.04, 0.5, 0.0):
        with pytest.raises(InputError, match=r"models noise level 0\.1, not"):
            one.at(sigma)
    with pytest.raises(InputError, match="pictures without noise") as caught:
        prior.GlowPrior(glow(), 0.0).at(0.1)
    assert "finetune-glow" in caught.value.hint
    assert prior.GlowPrior(glow(conditional=True), None).sigmas is None


def saved(path: Path, sigma: float | None = None, shape=(1, 8, 8), seed: int = 0) -> Glow:
    torch.manual_seed(seed)
    net = glow(shape, conditional=sigma is None)
    prior.save(path, net, sigma, {"data": "none"})
    return net


@pytest.mark.parametrize("sigma", [None, 0.0, 0.1])
def test_round_trip(tmp_path, sigma):
    net = saved(tmp_path / "w.safetensors", sigma)
    again, level = prior.read(tmp_path / "w.safetensors")
    assert level == sigma
    assert again.config == net.config
    x, s = pictures(2), torch.tensor([0.1, 0.5])
    assert 0 < (again(x, s) - net(x, s)).abs().max() < 0.1, "only what is inside the couplings is rounded"
    assert torch.equal(again.levels[0][0].mix.matrix(), net.levels[0][0].mix.matrix())
    prior.save(tmp_path / "w.safetensors", net, sigma, {}, torch.float32)
    assert torch.equal(prior.read(tmp_path / "w.safetensors")[0](x, s), net(x, s))


def spec(shape=(1, 8, 8)) -> PriorSpec:
    return PriorSpec(name="small", summary="", shape=shape, load="basis_glow.prior:load")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "cannot read weights"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "does not hold a Glow"),
        (lambda path: saved(path, shape=(3, 8, 8)), r"\(3, 8, 8\), but small models \(1, 8, 8\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, write, reason):
    path = tmp_path / "w.safetensors"
    write(path)
    with pytest.raises(WeightsError, match=reason) as caught:
        prior.load(spec(), path, torch.device("cpu"))
    assert "w.safetensors" in caught.value.message


def test_without_weights_the_way_to_them_is_named():
    with pytest.raises(WeightsError, match="no weights of its own") as caught:
        prior.load(spec(), None, torch.device("cpu"))
    assert "basis train glow" in caught.value.hint


def ladder(folder: Path, sigmas=(0.0, 0.01, 0.1, 1.0)) -> tuple[prior.LadderPrior, dict[float, Glow]]:
    nets = {}
    for i, sigma in enumerate(sigmas):
        path = folder / f"{sigma}.safetensors"
        saved(path, sigma, seed=i)
        nets[sigma] = prior.read(path)[0]
        written = prior.add_rung(path, sigma, (1, 8, 8))
    loaded = prior.load(spec(), written, torch.device("cpu"))
    assert isinstance(loaded, prior.LadderPrior)
    return loaded, nets


def test_a_ladder_has_a_model_for_each_level(tmp_path):
    loaded, nets = ladder(tmp_path)
    assert loaded.sigmas == (1.0, 0.1, 0.01)
    x = pictures(2)
    with torch.inference_mode():
        for sigma, net in nets.items():
            torch.testing.assert_close(loaded.at(sigma).log_prob(x), net(x))
            assert loaded.at(sigma).score(x).shape == x.shape
        torch.testing.assert_close(loaded.at(0.08).score(x), loaded.at(0.1).score(x) * 1.25)
        with pytest.raises(InputError, match="not noise level 0.3"):
            loaded.at(0.3)


def test_a_ladder_reads_the_next_level_ahead_and_each_file_once(tmp_path, monkeypatch):
    loaded, _ = ladder(tmp_path, (0.01, 0.1, 1.0))
    reads = []
    real = prior.read
    monkeypatch.setattr(prior, "read", lambda path: reads.append(path.stem) or real(path))
    loaded.at(1.0)
    for future in loaded._networks.values():
        future.result()
    assert reads == ["1.0", "0.1"], "the next level is read while this one samples"
    for sigma in (0.1, 0.01, 1.0, 0.1):
        loaded.at(sigma)
    for future in loaded._networks.values():
        future.result()
    assert sorted(reads) == ["0.01", "0.1", "1.0"]
    monkeypatch.setattr(prior, "CACHE", 1)
    loaded.at(1.0)
    assert len(loaded._networks) == 2, "too large to keep: only this level and the next"


def test_a_ladder_checks_its_files(tmp_path):
    loaded, _ = ladder(tmp_path, (0.1, 1.0))
    (tmp_path / "0.1.safetensors").write_bytes((tmp_path / "1.0.safetensors").read_bytes())
    loaded.at(1.0)
    with pytest.raises(WeightsError, match="SHA-256 differs"):
        loaded.at(0.1)
    (tmp_path / "0.1.safetensors").unlink()
    fresh = prior.load(spec(), tmp_path / "ladder.json", torch.device("cpu"))
    with pytest.raises(WeightsError, match=r"0\.1\.safetensors is missing"):
        fresh.at(0.1)
    with pytest.raises(WeightsError, match="another folder"):
        prior.add_rung(tmp_path / "1.0.safetensors", 0.5, (3, 8, 8))
    for content in ("{}", "[1]", "no", '{"format": "basis-glow-ladder", "shape": [1, 8, 8], "rungs": []}'):
        (tmp_path / "ladder.json").write_text(content)
        with pytest.raises(WeightsError, match="no ladder"):
            prior.load(spec(), tmp_path / "ladder.json", torch.device("cpu"))


def test_a_ladder_separates(tmp_path):
    loaded, _ = ladder(tmp_path, (0.01, 0.1, 1.0))
    operator = Mixture([0.5, 0.5])
    with torch.inference_mode():
        x = samplers.langevin([loaded, loaded], operator, pictures(2), seeds=[0, 1], sigmas=loaded.sigmas, steps=2)
    assert x.shape == (2, 2, 1, 8, 8)
    assert torch.isfinite(x).all()


# --- training --------------------------------------------------------------------------------------------------------


def tiny(split: str, shape=(1, 8, 8)) -> Dataset:
    """Soft gray ramps: easy enough that a few steps help."""
    rng = np.random.default_rng(len(split))
    ramps = 60 + 12 * np.arange(8)[None, :] + rng.integers(0, 40, (40, 1, 1))
    return Dataset("tiny", split, np.broadcast_to(ramps[:, None], (40, *shape)).astype(np.uint8), np.zeros(40, int))


QUICK = {"steps": 6, "batch": 8, "warmup": 2, "save_every": 2, "optimizer": "adam", "bf16": False}


def train(
    out: Path,
    conditional: bool = False,
    resume: bool = False,
    score_matching: float = 0.0,
    whiten: int = 0,
    smooth: bool = False,
    start_from: Path | None = None,
    images: np.ndarray | None = None,
    **settings,
) -> Path:
    return training.train(
        tiny("train") if images is None else Dataset("given", "train", images, np.zeros(len(images), int)),
        tiny("test"),
        out,
        Settings(**QUICK | settings),
        config=TINY | {"conditional": conditional, "whiten": whiten, "smooth": smooth},
        device="cpu",
        resume=resume,
        start_from=start_from,
        score_matching=score_matching,
    )


def climb(start: Path, out: Path, sigmas=(0.01, 0.1), resume: bool = False, **more) -> Path:
    settings = Settings(**QUICK | {"learning_rate": 1e-3} | more.pop("settings", {}))
    return training.finetune(
        tiny("train"),
        tiny("test"),
        out,
        settings,
        start_from=start,
        sigmas=sigmas,
        device="cpu",
        resume=resume,
        **more,
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("conditional", [False, True])
def test_training_raises_the_likelihood(tmp_path, conditional):
    train(tmp_path, conditional, steps=40, sheet_every=20, learning_rate=3e-3)
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    sigma = 0.1 if conditional else 0.0
    untrained = Glow((1, 8, 8), **TINY, conditional=conditional)
    pictures = tiny("test")[:]
    before = training.measured(untrained, pictures, [sigma])
    assert metrics[f"bits_per_dim_{sigma:.6g}"] < before[f"bits_per_dim_{sigma:.6g}"] - 1
    assert (tmp_path / "samples-0000040.png").exists()
    assert prior.read(tmp_path / "weights.safetensors")[1] == (None if conditional else 0.0)


class Normal(nn.Module):
    """The density of pixels that are independent, with mean 1/2 and the standard deviation that Glow expects."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        std = (sigma**2 + gaussians.DATA_STD**2).sqrt()[:, None, None, None]
        return torch.distributions.Normal(0.5, std).log_prob(x).flatten(1).sum(1)


def test_the_error_of_a_true_score_is_one_at_every_level_and_it_can_be_learned_from():
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + gaussians.DATA_STD * torch.randn(3, 1, 200, 200, generator=generator)
    x.requires_grad_()  # stands in for parameters
    sigma = torch.tensor([0.0, 0.1, 1.0])
    bits, error = training.bits_and_score_error(Normal(), x, sigma, generator)
    (slope,) = torch.autograd.grad(error.sum(), x)
    assert slope[1:].abs().sum() > 0
    assert error.tolist() == pytest.approx([0, 1, 1], abs=0.03)
    entropy = 0.5 * (2 * math.pi * math.e * (sigma**2 + gaussians.DATA_STD**2)).log2() + math.log2(255)
    assert bits.tolist() == pytest.approx(entropy.tolist(), abs=0.03)


def test_score_matching_makes_the_score_better(tmp_path):
    errors = []
    for weight in (0.0, 3.0):
        out = tmp_path / f"{weight}"
        train(out, True, score_matching=weight, steps=60, sheet_every=60, learning_rate=3e-3)
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        errors.append(last["score_error_1"])
    assert errors[1] < errors[0]


def test_smooth_couplings_may_begin_with_the_weights_of_others(tmp_path, start):
    path = train(tmp_path, smooth=True, start_from=start, steps=1, learning_rate=0.0)
    ours, published = prior.read(path)[0], prior.read(start)[0]
    assert ours.config == published.config | {"smooth": True}
    for name, tensor in published.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor)
    x, sigma = pictures(2), torch.zeros(1)
    assert not torch.allclose(ours(x, sigma), published(x, sigma))
    back = prior.read(train(tmp_path / "back", start_from=path, steps=1, learning_rate=0.0))[0]
    torch.testing.assert_close(back(x, sigma), published(x, sigma))


def test_a_whitened_model_begins_with_the_pictures_own_gaussian(tmp_path):
    """Before anything is learned, and its file has it, too."""
    x = (255 * correlated(80).clamp(0, 1)).byte().numpy()
    errors = []
    for whiten in (6, 0):
        path = train(tmp_path / str(whiten), True, whiten=whiten, images=x, steps=1, learning_rate=0.0)
        errors.append(training.measured(prior.read(path)[0], correlated(200), [1.0])["score_error_1"])
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize(
    ("conditional", "whiten", "hint"), [(False, 6, "--conditional"), (True, 65, "smaller"), (True, 40, "smaller")]
)
def test_errors_of_whitening(tmp_path, conditional, whiten, hint):
    with pytest.raises(UsageError) as error:
        train(tmp_path, conditional, whiten=whiten)
    assert hint in error.value.hint


def test_trains_on_squares_cut_from_the_pictures(tmp_path):
    assert prior.read(train(tmp_path, crops=(4,)))[0].shape == (1, 4, 4)


@pytest.mark.parametrize(("conditional", "more"), [(False, {}), (True, {"compile": True})])
def test_score_matching_needs_noise_and_second_derivatives(tmp_path, conditional, more):
    with pytest.raises(UsageError, match="score matching needs"):
        train(tmp_path, conditional, score_matching=1.0, **more)


def test_levels_of_a_conditional_model_are_stratified():
    sigma = training.noise_levels(200, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert int((sigma == 0).sum()) == 20
    low, high = map(math.log, training.SIGMAS)
    place = (sigma[20:].log() - low) / (high - low) * 180
    assert place.floor().tolist() == list(range(180))


def test_noise_is_gaussian_and_without_it_uniform_over_an_intensity():
    x = torch.full((2, 1, 100, 100), 100 / 255)
    clean, noise = training.noisy(x, torch.tensor([0.0, 0.2]), torch.Generator().manual_seed(0)) - x
    assert clean.abs().max() <= 0.5 / 255 + 1e-6
    assert float(clean.std()) == pytest.approx(1 / 255 / math.sqrt(12), rel=0.02)
    assert float(noise.std()) == pytest.approx(0.2, rel=0.02)


def test_starting_weights_must_fit(tmp_path, start):
    for config, differ in (
        (TINY | {"width": 9}, "it has width 8"),
        (TINY | {"conditional": True}, "it has conditional 0"),
    ):
        with pytest.raises(UsageError, match="another network") as caught:
            training.train(
                tiny("train"), tiny("test"), tmp_path, Settings(**QUICK), config=config, device="cpu", start_from=start
            )
        assert caught.value.hint == differ
    with pytest.raises(UsageError, match="halved"):
        training.train(tiny("train"), tiny("test"), tmp_path, Settings(**QUICK), config={"levels": 9}, device="cpu")


def test_the_ladder_starts_each_rung_from_the_one_below(tmp_path, start, monkeypatch):
    begun = []
    real = training.read
    monkeypatch.setattr(training, "read", lambda path: begun.append(path.name) or real(path))
    steps = []
    path = climb(start, tmp_path, (0.1, 0.01), callback=lambda step, metrics: steps.append((step, metrics["sigma"])))
    assert path == tmp_path / "ladder.json"
    assert begun[1:] == ["sigma-0.safetensors", "sigma-0.01.safetensors"]
    assert steps == [(6, 0.01), (12, 0.1)]
    assert [rung.sigma for rung in prior.read_ladder(path)[0]] == [0.0, 0.01, 0.1]
    assert not list(tmp_path.rglob("state.pt"))
    loaded = prior.load(spec(), path, torch.device("cpu"))
    assert loaded.at(0.1).score(pictures(2)).shape == (2, 1, 8, 8)


def rungs(ladder: Path) -> dict[str, Tensor]:
    """Every tensor of every rung."""
    files = [rung.path for rung in prior.read_ladder(ladder)[0]]
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_a_ladder_killed_in_the_middle_of_a_rung_goes_on_as_the_unbroken_one(tmp_path, start, monkeypatch):
    unbroken = rungs(climb(start, tmp_path / "unbroken"))
    calls = iter(range(1, 1000))
    real = training.bits

    def killed(*args):
        if torch.is_grad_enabled() and next(calls) == 6 + 4:  # six steps, then in the second rung
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "bits", killed)
        with pytest.raises(KeyboardInterrupt):
            climb(start, tmp_path / "killed")
    done = [rung.sigma for rung in prior.read_ladder(tmp_path / "killed" / "ladder.json")[0]]
    assert done == [0.0, 0.01]
    with pytest.raises(UsageError, match="already holds a ladder"):
        climb(start, tmp_path / "killed")
    looked = []
    monkeypatch.setattr(training, "bits", lambda *args: looked.append(torch.is_grad_enabled()) or real(*args))
    resumed = rungs(climb(start, tmp_path / "killed", resume=True))
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())
    assert sum(looked) < 6, "neither the finished rung nor the saved steps are done again"


@pytest.mark.parametrize("failure", ["not finite", "not invertible"])
def test_a_failed_rung_is_tried_again_with_a_smaller_learning_rate(tmp_path, start, monkeypatch, failure):
    rates, told = [], []
    fit, inverse_error = training.training.fit, training.inverse_error

    def failing(net, loss, data, settings, *args, **kwargs):
        rates.append(settings.learning_rate)
        if failure == "not finite" and len(rates) == 1:
            raise NotFiniteError("the loss is nan")
        return fit(net, loss, data, settings, *args, **kwargs)

    monkeypatch.setattr(training.training, "fit", failing)
    if failure == "not invertible":
        monkeypatch.setattr(training, "inverse_error", lambda *a: math.inf if len(rates) == 1 else inverse_error(*a))
    climb(start, tmp_path, (0.01, 0.1), report=told.append)
    assert rates == pytest.approx([1e-3, 1e-3 / 3, 1e-3])
    assert len(told) == 1
    assert "noise level 0.01 failed with learning rate 0.001" in told[0]


def test_a_rung_that_always_fails_ends_the_climb(tmp_path, start, monkeypatch):
    monkeypatch.setattr(training, "inverse_error", lambda *args: 0.5)
    with pytest.raises(NotFiniteError, match=r"noise level 0\.01 failed 3 times"):
        climb(start, tmp_path)
    assert [rung.sigma for rung in prior.read_ladder(tmp_path / "ladder.json")[0]] == [0.0]


def test_inverse_error_sees_a_lost_inverse():
    net, x = glow(), pictures(4)
    assert training.inverse_error(net, x, 0.1) < 1e-4
    with torch.no_grad():
        net.levels[0][0].coupling.conv3.norm.bias[2:] = -120  # a scale of exp(-118) is zero
    assert training.inverse_error(net, x, 0.1) == math.inf


def test_only_a_noiseless_model_of_such_pictures_begins_a_ladder(tmp_path, start):
    prior.save(tmp_path / "white.safetensors", whitened(), None, {})
    saved(tmp_path / "noisy.safetensors", 0.1)
    saved(tmp_path / "colour.safetensors", 0.0, (3, 8, 8))
    saved(tmp_path / "other.safetensors", 0.0)
    for name, reason in (
        ("white", "without whitening"),
        ("noisy", r"noise level 0\.1"),
        ("colour", r"models \(3, 8, 8\) pictures"),
    ):
        with pytest.raises(UsageError, match=reason):
            climb(tmp_path / f"{name}.safetensors", tmp_path / "out")
    climb(start, tmp_path / "out", (0.01,))
    with pytest.raises(UsageError, match="ladder of another model"):
        climb(tmp_path / "other.safetensors", tmp_path / "out", resume=True)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_a_level_of_a_conditional_model_is_a_model_of_its_own(sigma, smooth):
    net, x = glow(conditional=True, smooth=smooth), pictures(3)
    torch.testing.assert_close(net.of_level(sigma)(x), net(x, torch.full((1,), sigma)), rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match="only a conditional Glow"):
        glow().of_level(sigma)


def test_a_ladder_begins_with_the_noiseless_level_of_a_conditional_model(tmp_path):
    start = tmp_path / "all.safetensors"
    saved(start, None)
    ladder = climb(start, tmp_path / "out", (0.01,))
    rungs, _ = prior.read_ladder(ladder)
    assert [rung.sigma for rung in rungs] == [0.0, 0.01]
    x = pictures(3)
    expected = prior.read(start)[0](x, torch.zeros(1))
    torch.testing.assert_close(prior.read(rungs[0].path)[0](x), expected, rtol=1e-4, atol=1e-2)
    with torch.no_grad():  # another machine may round the level that is taken out otherwise
        begun, _ = prior.read(rungs[0].path)
        next(begun.steps()).actnorm.bias.mul_(1 + 1e-6)
        prior.save(rungs[0].path, begun, 0.0, {})
    assert climb(start, tmp_path / "out", (0.01, 0.1), resume=True) == ladder
    rungs[0].path.write_bytes(rungs[0].path.read_bytes()[:200])
    with pytest.raises(WeightsError, match="cannot read"):
        climb(start, tmp_path / "out", (0.01, 0.1), resume=True)


# --- TensorFlow checkpoints ------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], every: int = 4) -> bytes:
    """A table block: keys as what differs from the one before, with a fresh start every few."""
    out, before, restarts = b"", b"", []
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def snappy(data: bytes) -> bytes:
    """Snappy's format: literals of up to 70 bytes, and copies of eight bytes that occurred before."""
    out, at, literal = varint(len(data)), 0, b""

    def flush() -> bytes:
        n = len(literal) - 1
        head = b"" if n < 0 else bytes([n << 2]) if n < 60 else bytes([60 << 2, n])
        return head + literal

    while at < len(data):
        found = data.rfind(data[at : at + 8], 0, at)
        if found >= 0 and len(data) - at >= 8:
            back = at - found
            out += flush()
            if back < 2048:
                out += bytes([1 | (8 - 4) << 2 | back >> 8 << 5, back & 0xFF])
            else:
                out += bytes([2 | (8 - 1) << 2]) + struct.pack("<H", back)
            literal, at = b"", at + 8
            continue
        literal, at = literal + data[at : at + 1], at + 1
        if len(literal) == 70:
            out, literal = out + flush(), b""
    return out + flush()


def write_checkpoint(prefix: Path, arrays: dict[str, np.ndarray], compressed: bool = False, shards: int = 2) -> Path:
    """A checkpoint of version 2, as TensorFlow writes it, its values in several shards."""
    data = [b""] * shards
    entries = [(b"", field(1, shards) + field(3, field(1, 1)))]
    for i, (name, array) in enumerate(sorted(arrays.items())):
        shard = i % shards
        shape = b"".join(field(2, field(1, side)) for side in array.shape)
        kind = {"f": 1, "d": 2, "i": 3, "l": 9, "q": 9, "S": 7}[array.dtype.char]
        raw = array.tobytes()
        entry = field(1, kind) + field(2, shape) + (field(3, shard) if shard else b"") + field(4, len(data[shard]))
        entry += field(5, len(raw)) + varint(6 << 3 | 5) + b"\0\0\0\0"
        entries.append((name.encode(), entry))
        data[shard] += raw
    table, index = b"", []
    for first in range(0, len(entries), 10):
        part = entries[first : first + 10]
        content = snappy(block(part)) if compressed else block(part)
        index.append((part[-1][0], varint(len(table)) + varint(len(content))))
        table += content + bytes([compressed]) + b"\0\0\0\0"
    handles = []
    for content in (block([]), block(index, every=1)):
        handles.append(varint(len(table)) + varint(len(content)))
        table += content + b"\0" * 5
    table += b"".join(handles).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    for i, raw in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(raw)
    path = prefix.with_name(prefix.name + ".index")
    path.write_bytes(table)
    return path


def published(levels: int = 2, depth: int = 2, width: int = 6, channels: int = 3) -> dict[str, np.ndarray]:
    """Variables as openai/glow names and shapes them, filled at random, with Adam's and a step counter beside them."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, scale: float = 0.1) -> None:
        arrays[f"model/{name}"] = (scale * rng.standard_normal(shape)).astype(np.float32)

    def actnorm(name: str, c: int) -> None:
        add(f"{name}_center/b", 1, 1, 1, c)
        add(f"{name}_scale/logs", 1, 1, 1, c)

    def zeros(name: str, inside: int, out: int) -> None:
        add(f"{name}/W", 3, 3, inside + 1, out)
        add(f"{name}/b", 1, 1, 1, out)
        add(f"{name}/logs", 1, out)

    c = channels
    for level in range(levels):
        c *= 4
        for step in range(depth):
            name = f"{level}/{step}"
            actnorm(f"{name}/actnorm", c)
            arrays[f"model/{name}/invconv/W"] = np.linalg.qr(rng.standard_normal((c, c)))[0].astype(np.float32) * 1.1
            add(f"{name}/f1/l_1/W", 3, 3, c // 2 + 1, width)
            actnorm(f"{name}/f1/l_1/actnorm", width)
            add(f"{name}/f1/l_2/W", 1, 1, width, width, scale=0.5)
            actnorm(f"{name}/f1/l_2/actnorm", width)
            zeros(f"{name}/f1/l_last", width, c)
        if level + 1 < levels:
            c //= 2
            zeros(f"pool{level}/conv", c, 2 * c)
    zeros("prior/p", 2 * c, 2 * c)
    adam = {f"{name}_adam_m2": array**2 for name, array in arrays.items()}
    return arrays | adam | {"global_step": np.array(7, np.int64)}


def log_prob_as_published(v: dict[str, np.ndarray], x: np.ndarray, levels: int = 2, depth: int = 2) -> np.ndarray:
    """The density of ``x`` ``(n, h, w, c)`` in [-1/2, 1/2], step by step from the paper's equations, in float64."""

    def get(name: str) -> np.ndarray:
        return v[f"model/{name}"].astype(np.float64)

    def conv(h: np.ndarray, name: str) -> np.ndarray:
        kernel = get(f"{name}/W")
        if kernel.shape[0] == 3:
            n, height, width, _ = h.shape
            edge = np.ones((n, height + 2, width + 2, 1))
            edge[:, 1:-1, 1:-1] = 0
            h = np.concatenate([np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), edge], 3)
            return sum(h[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))
        return h @ kernel[0, 0]

    def actnorm(h: np.ndarray, name: str) -> np.ndarray:
        return (h + get(f"{name}_center/b")) * np.exp(3 * get(f"{name}_scale/logs"))

    def zeros(h: np.ndarray, name: str) -> np.ndarray:
        return (conv(h, name) + get(f"{name}/b")) * np.exp(3 * get(f"{name}/logs"))

    def gaussian(z: np.ndarray, mean: np.ndarray, logs: np.ndarray) -> np.ndarray:
        return (-0.5 * (np.log(2 * np.pi) + 2 * logs + (z - mean) ** 2 / np.exp(2 * logs))).sum((1, 2, 3))

    def squeeze(z: np.ndarray) -> np.ndarray:
        n, h, w, c = z.shape
        return z.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, 4 * c)

    total, z = np.zeros(len(x)), squeeze(x)
    for level in range(levels):
        for step in range(depth):
            name, positions = f"{level}/{step}", z.shape[1] * z.shape[2]
            z = actnorm(z, f"{name}/actnorm")
            total += 3 * get(f"{name}/actnorm_scale/logs").sum() * positions
            z = z @ get(f"{name}/invconv/W")
            total += np.linalg.slogdet(get(f"{name}/invconv/W"))[1] * positions
            z1, z2 = np.split(z, 2, axis=3)
            h = np.maximum(actnorm(conv(z1, f"{name}/f1/l_1"), f"{name}/f1/l_1/actnorm"), 0)
            h = np.maximum(actnorm(conv(h, f"{name}/f1/l_2"), f"{name}/f1/l_2/actnorm"), 0)
            h = zeros(h, f"{name}/f1/l_last")
            scale = 1 / (1 + np.exp(-(h[..., 1::2] + 2)))
            z = np.concatenate([z1, (z2 + h[..., 0::2]) * scale], 3)
            total += np.log(scale).sum((1, 2, 3))
        if level + 1 < levels:
            z1, z2 = np.split(z, 2, axis=3)
            h = zeros(z1, f"pool{level}/conv")
            total += gaussian(z2, h[..., 0::2], h[..., 1::2])
            z = squeeze(z1)
    h = zeros(np.zeros((*z.shape[:3], 2 * z.shape[3])), "prior/p")
    return total + gaussian(z, *np.split(h, 2, axis=3))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_checkpoint_reads_back(tmp_path, compressed):
    arrays = published() | {"name": np.array(b"text"), "empty": np.zeros((0, 3), np.float32)}
    found = convert.read_checkpoint(write_checkpoint(tmp_path / "m.ckpt", arrays, compressed))
    assert found.keys() == arrays.keys() - {"name"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_converted_checkpoint_has_the_published_density(tmp_path):
    arrays = published()
    index = write_checkpoint(tmp_path / "m.ckpt", arrays)
    out = tmp_path / "out.safetensors"
    about = convert.convert(index, out, 8, 0.01)
    assert about.pop("parameters") > 1000
    assert about.pop("ladder") == tmp_path / "ladder.json"
    assert about == {"shape": (3, 8, 8), "levels": 2, "depth": 2, "width": 6, "conditional": False}
    net, sigma = prior.read(out)
    assert sigma == 0.01
    x = np.random.default_rng(1).random((3, 8, 8, 3))
    theirs = log_prob_as_published(arrays, (255 * x + 0.5) / 256 - 0.5) + x[0].size * math.log(255 / 256)
    ours = net(torch.from_numpy(x.transpose(0, 3, 1, 2)).float())
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-5, atol=2e-3)


def without(*names: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in published().items() if name not in names}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (lambda: {"a": np.zeros(3, np.float32)}, "model/0/0/f1/l_2/W is missing"),
        (lambda: without("model/1/1/invconv/W"), "model/1/1/invconv/W is missing"),
        (lambda: published() | {"model/prior/y_emb/W": np.zeros((10, 4), np.float32)}, "conditional on classes"),
        (lambda: published() | {"model/0/1/f1/l_last/W": np.zeros((3, 3, 7, 6), np.float32)}, "has shape"),
        (lambda: published() | {"model/prior/p/b": np.full((1, 1, 1, 48), np.nan, np.float32)}, "is not finite"),
    ],
)
def test_convert_names_what_does_not_fit(tmp_path, arrays, reason):
    index, out = write_checkpoint(tmp_path / "m.ckpt", arrays()), tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match=reason) as caught:
        convert.convert(index, out, 8)
    assert "affine couplings" in caught.value.hint
    assert not out.exists()


@pytest.mark.parametrize("damage", ["missing", "text", "cut index", "cut data", "no data", "flipped"])
def test_convert_refuses_damaged_checkpoints(tmp_path, damage):
    index = write_checkpoint(tmp_path / "m.ckpt", published())
    shard = tmp_path / "m.ckpt.data-00001-of-00002"
    whole = index.read_bytes()
    if damage == "missing":
        index.unlink()
    elif damage == "no data":
        shard.unlink()
    elif damage == "cut data":
        shard.write_bytes(shard.read_bytes()[:-4])
    else:
        cut = whole[: len(whole) // 2]
        index.write_bytes(
            {"text": b"<html>404</html>" * 9, "cut index": cut, "flipped": b"\xff" * 90 + whole[90:]}[damage]
        )
    with pytest.raises(WeightsError, match=r"m\.ckpt\.index") as caught:
        convert.convert(index, tmp_path / "out.safetensors", 8)
    assert isinstance(caught.value, BasisError)
    assert caught.value.hint

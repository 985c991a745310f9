"""Glow as a prior: its score, its files."""

from __future__ import annotations

import pytest
import torch
from basis_glow import prior
from safetensors.torch import save_file

from basis_cli.errors import InputError, WeightsError

TINY = {"levels": 2, "depth": 2, "width": 8}


@pytest.mark.parametrize("conditional", [False, True])
def test_score_is_the_gradient_of_log_prob(conditional, glow, pictures):
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


def test_score_and_log_prob_inside_inference_mode_and_autocast(glow, pictures):
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
def test_a_pictures_score_does_not_depend_on_its_batch(monkeypatch, config, dtype, glow, pictures):
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


def test_a_model_of_one_level_stands_in_for_its_neighbours_only(glow, pictures):
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


@pytest.mark.parametrize("sigma", [None, 0.0, 0.1])
def test_round_trip(tmp_path, sigma, pictures, saved):
    net = saved(tmp_path / "w.safetensors", sigma)
    again, level = prior.read(tmp_path / "w.safetensors")
    assert level == sigma
    assert again.config == net.config
    x, s = pictures(2), torch.tensor([0.1, 0.5])
    assert 0 < (again(x, s) - net(x, s)).abs().max() < 0.1, "only what is inside the couplings is rounded"
    assert torch.equal(again.levels[0][0].mix.matrix(), net.levels[0][0].mix.matrix())
    prior.save(tmp_path / "w.safetensors", net, sigma, {}, torch.float32)
    assert torch.equal(prior.read(tmp_path / "w.safetensors")[0](x, s), net(x, s))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path, _: None, "No such file"),
        (lambda path, _: path.write_bytes(b"<html>not found</html>"), "cannot read weights"),
        (lambda path, _: save_file({"a": torch.zeros(1)}, path), "does not hold a Glow"),
        (lambda path, saved: saved(path, shape=(3, 8, 8)), r"\(3, 8, 8\), but small models \(1, 8, 8\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, write, reason, saved, spec):
    path = tmp_path / "w.safetensors"
    write(path, saved)
    with pytest.raises(WeightsError, match=reason) as caught:
        prior.load(spec(), path, torch.device("cpu"))
    assert "w.safetensors" in caught.value.message


def test_without_weights_the_way_to_them_is_named(spec):
    with pytest.raises(WeightsError, match="no weights of its own") as caught:
        prior.load(spec(), None, torch.device("cpu"))
    assert "basis train glow" in caught.value.hint

"""A Glow for each noise level: the ladder as a prior, and the climb that fine-tunes it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from basis_glow import prior, training
from basis_glow.network import Glow
from safetensors.torch import load_file
from torch import Tensor

from basis_cli import samplers
from basis_cli.errors import InputError, NotFiniteError, UsageError, WeightsError
from basis_cli.operators import Mixture

TINY = {"levels": 2, "depth": 2, "width": 8}


@pytest.fixture
def ladder(saved, spec):
    """A function that writes a ladder of small models into a folder; it and the model of each level."""

    def made(folder: Path, sigmas=(0.0, 0.01, 0.1, 1.0)) -> tuple[prior.LadderPrior, dict[float, Glow]]:
        nets = {}
        for i, sigma in enumerate(sigmas):
            path = folder / f"{sigma}.safetensors"
            saved(path, sigma, seed=i)
            nets[sigma] = prior.read(path)[0]
            written = prior.add_rung(path, sigma, (1, 8, 8))
        loaded = prior.load(spec(), written, torch.device("cpu"))
        assert isinstance(loaded, prior.LadderPrior)
        return loaded, nets

    return made


def test_a_ladder_has_a_model_for_each_level(tmp_path, pictures, ladder):
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


def test_a_ladder_reads_the_next_level_ahead_and_each_file_once(tmp_path, monkeypatch, ladder):
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


def test_a_ladder_checks_its_files(tmp_path, spec, ladder):
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


def test_a_ladder_separates(tmp_path, pictures, ladder):
    loaded, _ = ladder(tmp_path, (0.01, 0.1, 1.0))
    operator = Mixture([0.5, 0.5])
    with torch.inference_mode():
        x = samplers.langevin([loaded, loaded], operator, pictures(2), seeds=[0, 1], sigmas=loaded.sigmas, steps=2)
    assert x.shape == (2, 2, 1, 8, 8)
    assert torch.isfinite(x).all()


def rungs(ladder: Path) -> dict[str, Tensor]:
    """Every tensor of every rung."""
    files = [rung.path for rung in prior.read_ladder(ladder)[0]]
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_the_ladder_starts_each_rung_from_the_one_below(tmp_path, start, monkeypatch, pictures, spec, climb):
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


def test_a_ladder_killed_in_the_middle_of_a_rung_goes_on_as_the_unbroken_one(tmp_path, start, monkeypatch, climb):
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
def test_a_failed_rung_is_tried_again_with_a_smaller_learning_rate(tmp_path, start, monkeypatch, failure, climb):
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


def test_a_rung_that_always_fails_ends_the_climb(tmp_path, start, monkeypatch, climb):
    monkeypatch.setattr(training, "inverse_error", lambda *args: 0.5)
    with pytest.raises(NotFiniteError, match=r"noise level 0\.01 failed 3 times"):
        climb(start, tmp_path)
    assert [rung.sigma for rung in prior.read_ladder(tmp_path / "ladder.json")[0]] == [0.0]


def test_inverse_error_sees_a_lost_inverse(glow, pictures):
    net, x = glow(), pictures(4)
    assert training.inverse_error(net, x, 0.1) < 1e-4
    with torch.no_grad():
        net.levels[0][0].coupling.conv3.norm.bias[2:] = -120  # a scale of exp(-118) is zero
    assert training.inverse_error(net, x, 0.1) == math.inf


def test_only_a_noiseless_model_of_such_pictures_begins_a_ladder(tmp_path, start, whitened, saved, climb):
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
def test_a_level_of_a_conditional_model_is_a_model_of_its_own(sigma, smooth, glow, pictures):
    net, x = glow(conditional=True, smooth=smooth), pictures(3)
    torch.testing.assert_close(net.of_level(sigma)(x), net(x, torch.full((1,), sigma)), rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match="only a conditional Glow"):
        glow().of_level(sigma)


def test_a_ladder_begins_with_the_noiseless_level_of_a_conditional_model(tmp_path, pictures, saved, climb):
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

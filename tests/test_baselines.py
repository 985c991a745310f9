import gzip
import struct

import numpy as np
import pytest
import torch

from basis_cli import plugins
from basis_cli.errors import UsageError
from basis_cli.operators import Mixture, Unobserved
from basis_cli.posterior import Sampling
from basis_cli.samplers import baselines
from basis_cli.tasks import separate

EQUAL = Mixture([0.5, 0.5])


class Nothing:
    shape = (1, 28, 28)
    sigmas = (1.0, 0.1)

    def at(self, sigma):
        raise AssertionError("a baseline does not ask the prior")


@pytest.fixture
def bars(tmp_path, monkeypatch):
    """A data set in MNIST's files: classes 0-4 are upper rows, classes 5-9 lower ones; returns its pictures."""
    labels = np.arange(60) % 10
    images = np.zeros((60, 28, 28), np.uint8)
    rng = np.random.default_rng(0)
    for image, label in zip(images, labels, strict=True):
        top = 2 if label < 5 else 16
        image[top + label % 5 * 2 : top + label % 5 * 2 + 2] = rng.integers(100, 255)
    for split in ("train", "t10k"):
        for name, array in ((f"{split}-images-idx3-ubyte.gz", images), (f"{split}-labels-idx1-ubyte.gz", labels)):
            array = array.astype(np.uint8)
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (tmp_path / name).write_bytes(gzip.compress(head + array.tobytes()))
    monkeypatch.setenv("BASIS_DATA", str(tmp_path))
    baselines._dictionary.cache_clear()
    yield torch.from_numpy(images[:, None].astype(np.float32) / 255)
    baselines._dictionary.cache_clear()


def test_the_average_answers_with_the_mixture_and_asks_no_prior():
    y = torch.rand(3, 1, 28, 28)
    result = separate(y, prior=Nothing(), sampling=Sampling("average"))
    assert torch.allclose(result.components[:, :, 0], y.expand(2, *y.shape), atol=1e-6)
    assert result.evaluations == 0


@pytest.mark.parametrize("name", ["average", "nmf", "nmf-split"])
def test_baselines_have_no_levels(name):
    with pytest.raises(UsageError, match="has no noise levels"):
        Sampling(name, levels=5).options([Nothing()])


def test_split_nmf_gives_each_half_of_the_classes_its_own_rows(bars):
    lower, upper = bars[[0, 1, 2]], bars[[5, 6, 7]]
    truth = torch.stack([lower, upper])
    x = plugins.sampler("nmf-split")([Nothing()] * 2, EQUAL, EQUAL(truth), seeds=range(3))
    assert torch.allclose(EQUAL(x), EQUAL(truth), atol=1e-5)
    assert (x - truth).abs().mean() < 0.02


def test_nmf_adds_up_and_a_picture_depends_on_its_own_seed_only(bars):
    y = EQUAL(torch.stack([bars[[0, 1, 2]], bars[[5, 6, 7]]]))
    draw = plugins.sampler("nmf")
    x = draw([Nothing()] * 2, EQUAL, y, seeds=[3, 4, 5])
    assert torch.allclose(EQUAL(x), y, atol=1e-5)
    assert torch.allclose(x[:, 1:2], draw([Nothing()] * 2, EQUAL, y[1:2], seeds=[4]), atol=1e-5)
    assert not torch.allclose(x, draw([Nothing()] * 2, EQUAL, y, seeds=[6, 7, 8]))


def test_nmf_refuses_what_it_cannot_do(bars):
    y = torch.rand(1, 1, 28, 28)
    with pytest.raises(UsageError, match="positive"):
        baselines.nmf([Nothing()] * 2, Mixture([1.0, -0.5]), y, seeds=[0])
    with pytest.raises(UsageError, match="positive"):
        baselines.nmf([Nothing()], Unobserved((1, 28, 28)), y, seeds=[0])
    with pytest.raises(UsageError, match="not 3"):
        baselines.nmf_split([Nothing()] * 3, Mixture([1 / 3] * 3), y, seeds=[0])
    with pytest.raises(UsageError, match="no training pictures"):
        baselines._dictionary((2, 5, 5), 3)

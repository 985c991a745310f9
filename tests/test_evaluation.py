"""The protocol, the metrics and the numbers that hang on them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from basis_toy.prior import soft_blobs

from basis_cli.compute import Compute
from basis_cli.data import datasets
from basis_cli.data.datasets import Dataset
from basis_cli.errors import InputError, UsageError
from basis_cli.evaluation import metrics, msvae, protocols
from basis_cli.operators import Mixture
from basis_cli.posterior import Sampling, ordering
from basis_cli.tasks.colorization import Colorization, Colorize
from basis_cli.tasks.decompression import Compressed
from basis_cli.tasks.inpainting import Inpaint
from basis_cli.tasks.upscaling import Upscale

DATA = os.environ.get("BASIS_DATA")
ALL = Compute(batch=40)
whole_mnist = pytest.mark.skipif(not DATA, reason="BASIS_DATA names no folder with MNIST")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def digits(tmp_path):
    rng = np.random.default_rng(0)
    for stem, count in (("train", 30), ("t10k", 20)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", rng.integers(0, 255, (count, 8, 8)))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


def test_reads_idx_files(digits):
    data = datasets.load_dataset("mnist", "test", digits)
    assert data.images.shape == (20, 1, 8, 8)
    assert data.labels[:3].tolist() == [0, 1, 2]


def test_damaged_or_missing_data(digits, monkeypatch):
    path = digits / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="t10k-images"):
        datasets.load_dataset("mnist", "test", digits)
    with pytest.raises(InputError, match="not in"):
        datasets.load_dataset("mnist", "test", digits / "nowhere")
    monkeypatch.delenv("BASIS_DATA", raising=False)
    with pytest.raises(UsageError, match="where is mnist"):
        datasets.load_dataset("mnist", "test")
    with pytest.raises(UsageError, match="known: mnist"):
        datasets.load_dataset("mnits", "test", digits)


@pytest.fixture
def pictures(tmp_path):
    """CIFAR-10's binary files with 4 records each; the k-th of a file has label k and value k in every red pixel."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 255, (4, 3073), dtype=np.uint8)
    records[:, :1025] = np.arange(4)[:, None]
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records.tofile(folder / f"{name}.bin")
    return folder


def test_reads_cifar_binaries(pictures):
    for folder in (pictures, pictures.parent):
        data = datasets.load_dataset("cifar10", "train", folder)
        assert data.images.shape == (20, 3, 32, 32)
        assert data.labels[:5].tolist() == [0, 1, 2, 3, 0]
        assert (data.images[:, 0] == data.labels[:, None, None]).all()
    assert len(datasets.load_dataset("cifar10", "test", pictures).images) == 4


def test_damaged_cifar_binaries(pictures):
    path = pictures / "data_batch_3.bin"
    for damaged in (path.read_bytes()[:-5], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"data_batch_3.* not records of 3,073"):
            datasets.load_dataset("cifar10", "train", pictures)
    path.unlink()
    with pytest.raises(InputError, match="not in"):
        datasets.load_dataset("cifar10", "train", pictures)


@pytest.mark.skipif(
    not DATA or not (Path(DATA) / "cifar10").is_dir(), reason="BASIS_DATA names no folder with CIFAR-10"
)
def test_cifar_has_its_known_channel_means():
    data = datasets.load_dataset("cifar10", "train")
    assert data.images.mean(axis=(0, 2, 3)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert np.bincount(data.labels).tolist() == [5000] * 10


def blank(name="digits", count=200):
    return datasets.Dataset(name, "test", np.zeros((count, 1, 1, 1), np.uint8), np.arange(count) % 10)


def test_mixtures_are_distinct_and_reproducible():
    agnostic = datasets.mixture_indices(blank(), 3, 100, "class-agnostic", seed=1)
    assert all(len(set(row)) == 3 for row in agnostic)
    assert np.array_equal(agnostic[:7], datasets.mixture_indices(blank(), 3, 7, "class-agnostic", seed=1))
    assert not np.array_equal(agnostic, datasets.mixture_indices(blank(), 3, 100, "class-agnostic", seed=2))


@pytest.mark.parametrize(("name", "second"), [("digits", {5, 6, 7, 8, 9}), ("cifar10", {0, 1, 8, 9})])
def test_class_split_mixes_low_with_high_digits_and_animals_with_machines(name, second):
    split = datasets.mixture_indices(blank(name), 2, 100, "class-split", seed=1)
    labels = blank(name).labels[split]
    assert set(labels[:, 0]) == set(range(10)) - second
    assert set(labels[:, 1]) == second
    with pytest.raises(UsageError, match="two pictures, not 3"):
        datasets.mixture_indices(blank(name), 3, 5, "class-split", seed=1)


def test_ms_vae_mixes_distinct_classes():
    labels = blank().labels[datasets.mixture_indices(blank(), 4, 60, "ms-vae", seed=1)]
    assert all(len(set(row)) == 4 for row in labels)
    assert set(labels.flatten()) == set(range(10))
    assert datasets.mixture_indices(blank(count=2), 2, 3, "ms-vae", seed=1).shape == (3, 2)
    with pytest.raises(UsageError, match="2 classes are too few"):
        datasets.mixture_indices(blank(count=2), 3, 5, "ms-vae", seed=1)


def test_ms_vae_matches_by_ssim_and_divides_by_a_maximum_above_one():
    t, u = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    truth = torch.stack([0.5 + 0.15 * t, 0.1 + 0.15 * u])
    x = torch.stack([0.5 + 0.15 * u, 0.1 + 0.15 * t])  # nearer in PSNR to what they look less like
    found = msvae.judged(x, truth)
    swapped = ordering.psnr(x.flip(0), truth).mean(0)
    assert found["psnr"] == pytest.approx(swapped)
    assert float(swapped) < float(ordering.psnr(x, truth).mean())
    bright = truth / truth.amax((-3, -2, -1), keepdim=True)
    assert float(msvae.judged(3 * bright, bright)["psnr"]) == pytest.approx(100)
    assert float(msvae.judged(0.5 * bright, bright)["psnr"]) < 20
    assert float(msvae.judged(truth, truth)["ssim"]) == pytest.approx(1)


def test_separations_are_judged_as_ms_vae_does():
    prior = soft_blobs((1, 12, 12))
    blobs = prior.sample(12, torch.Generator().manual_seed(0)).clamp(0, 1)
    data = Dataset("blobs", "test", (blobs * 255).round().numpy().astype(np.uint8), np.arange(12) % 4)
    report = protocols.evaluate_separation(
        data, [prior] * 3, protocol="ms-vae", pairs=4, sampling=Sampling("project", levels=4)
    )
    assert report["ms_vae"]["psnr"]["mean"] == pytest.approx(report["psnr"]["mean"], abs=1)
    assert -1 < report["ms_vae"]["ssim"]["mean"] < 1
    assert report["ms_vae"]["ssim"]["standard_error"] > 0


def test_psnr_by_hand():
    x = torch.zeros(1, 4, 4)
    assert float(ordering.psnr(x, x + 0.1)) == pytest.approx(20)
    assert float(ordering.psnr(x, x)) == pytest.approx(100)


def test_ssim():
    x = torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert metrics.ssim(x, x) == pytest.approx(torch.ones(2, 3))
    noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    found = metrics.ssim(noisy[:, :1], x)
    assert found.shape == (2, 3)
    assert 0.5 < found[0, 0] < 0.99
    assert found[0, 0] > 2 * found[0, 1:].max()  # other pictures
    with pytest.raises(UsageError, match="11 pixels"):
        metrics.ssim(x[..., :10], x[..., :10])


def test_ssim_is_that_of_scikit_image():
    """gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1: its own filter and border."""
    x, r = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(2)).double().numpy()
    smooth = partial(scipy.ndimage.gaussian_filter, sigma=(0, 1.5, 1.5), truncate=3.5)
    mx, mr = smooth(x), smooth(r)
    a1, a2, b1 = 2 * mx * mr + 1e-4, 2 * (smooth(x * r) - mx * mr) + 9e-4, mx**2 + mr**2 + 1e-4
    values = a1 * a2 / (b1 * (smooth(x * x) - mx**2 + smooth(r * r) - mr**2 + 9e-4))
    found = metrics.ssim(torch.from_numpy(x).float(), torch.from_numpy(r).float())
    assert float(found) == pytest.approx(values[:, 5:-5, 5:-5].mean(), abs=1e-6)


def test_pictures_too_small_for_ssim_have_none():
    x = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert protocols.quality(x, x)["ssim"] == pytest.approx(1)
    assert "ssim" not in protocols.quality(x[..., :8], x[..., :8])


def test_components_are_put_to_the_references_they_fit():
    truth = torch.rand(3, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([[2, 0, 1], [0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]])
    shuffled = torch.stack([truth[order[i], i] for i in range(5)], dim=1)
    y = truth.mean(0)
    found = ordering.component_order(shuffled, [0, 0, 0], references=truth, mixture=y)
    assert torch.equal(ordering.reordered(shuffled, found), truth)
    kept = ordering.component_order(shuffled, [0, 1, 2], references=truth, mixture=y)
    assert torch.equal(ordering.reordered(shuffled, kept), shuffled)  # different kinds never change places


def test_evaluation_of_a_perfect_and_of_a_lazy_sampler(digits, sampler):
    data = datasets.load_dataset("mnist", "test", digits)
    prior = soft_blobs((1, 8, 8), std=0.2, length=2)

    def lazy(priors, operator, y, *, seeds, watch):
        return operator.pinv(y)

    sampler("lazy", lazy)
    report = protocols.evaluate_separation(data, [prior, prior], pairs=40, sampling=Sampling("lazy"))
    assert report["psnr"]["mean"] == pytest.approx(report["average"]["mean"], abs=1e-4)
    assert report["residual_8bit_rms"] < 1e-3

    chosen = datasets.mixture_indices(data, 2, 40, "class-agnostic", 0)
    truth = data[chosen.T]

    def perfect(priors, operator, y, *, seeds, watch):
        return truth.flip(0)  # in the wrong order: the best permutation must find it

    sampler("perfect", perfect)
    report = protocols.evaluate_separation(data, [prior, prior], pairs=40, sampling=Sampling("perfect"), compute=ALL)
    assert report["psnr"]["mean"] == pytest.approx(100)

    def too_bright(priors, operator, y, *, seeds, watch):
        return truth + 0.05

    sampler("bright", too_bright)
    report = protocols.evaluate_separation(data, [prior, prior], pairs=40, sampling=Sampling("bright"), compute=ALL)
    assert report["psnr"]["mean"] < 30
    assert report["psnr_corrected"]["mean"] > report["psnr"]["mean"] + 5


@whole_mnist
@pytest.mark.parametrize(("protocol", "published"), [("class-agnostic", 14.9), ("class-split", 14.8)])
def test_the_average_baseline_is_the_papers(protocol, published):
    data = datasets.load_dataset("mnist", "test")
    chosen = datasets.mixture_indices(data, 2, 2000, protocol, seed=0)
    truth = data[chosen.T]
    average = Mixture([0.5, 0.5])(truth)
    assert float(ordering.psnr(average.expand_as(truth), truth).mean()) == pytest.approx(published, abs=0.1)


class Flat:
    """A judge that counts: pictures are the more real the more of them there are."""

    def __call__(self, pictures):
        return {"count": float(len(pictures))}

    def caveats(self, count):
        return [f"{count} are few"]


@pytest.mark.parametrize(
    ("task", "limit"),
    [
        (Colorization().task(), 0.1),
        (Inpaint("left"), 0.1),
        (Upscale(2), 0.1),
        (Upscale(2, bicubic=True), 0.1),
        (Compressed(30), 15),
    ],
)
def test_restorations_are_compared_with_doing_without(task, limit):
    prior = soft_blobs((3, 8, 8))
    blobs = prior.sample(12, torch.Generator().manual_seed(0)).clamp(0, 1)
    data = Dataset("blobs", "test", (blobs * 255).round().numpy().astype(np.uint8), np.zeros(12, int))
    quick = Sampling("project", levels=20, sigma_max=1.0, sigma_min=0.03)
    report = protocols.evaluate_restoration(
        data, prior, task, pictures=8, samples=4, sampling=quick, compute=Compute(batch=5), realism=Flat()
    )
    rows = report["quality"]
    assert list(rows) == ["baseline", "one sample", "mean of 4", "truth"]
    assert {row["count"] for row in rows.values()} == {8}
    assert rows["mean of 4"]["psnr"] > rows["one sample"]["psnr"] - 0.2
    assert rows["mean of 4"]["psnr"] > rows["baseline"]["psnr"] - 1.2
    assert report["residual_8bit_rms"] < limit
    assert report["evaluations"] == 80
    assert report["caveats"] == ["8 are few"]


def test_a_prior_of_another_shape_cannot_restore():
    data = Dataset("blobs", "test", np.zeros((3, 3, 8, 8), np.uint8), np.zeros(3, int))
    with pytest.raises(UsageError, match="another shape|models"):
        protocols.evaluate_restoration(data, soft_blobs((1, 8, 8)), Colorize())


def test_separations_of_colour_are_judged():
    prior = soft_blobs((3, 8, 8))
    data = Dataset("blobs", "test", np.full((6, 3, 8, 8), 128, np.uint8), np.arange(6) % 2)
    quick = Sampling("project", levels=3)
    report = protocols.evaluate_separation(data, [prior, prior], pairs=4, sampling=quick, realism=Flat())
    assert list(report["quality"]) == ["average", "separations", "truth"]
    assert {row["count"] for row in report["quality"].values()} == {8}


def test_samples_are_judged_beside_as_many_pictures():
    data = Dataset("blobs", "test", np.full((6, 3, 8, 8), 128, np.uint8), np.zeros(6, int))
    quick = Sampling("project", levels=3)
    report = protocols.evaluate_samples(data, soft_blobs((3, 8, 8)), Flat(), count=5, sampling=quick)
    assert report["quality"] == {"samples": {"count": 5}, "truth": {"count": 5}}


def test_one_picture_of_each_data_set():
    data = [blank(count=5), blank(count=3)]
    chosen = datasets.one_of_each(data, 7, seed=1)
    assert sorted(chosen[:5, 0]) == [0, 1, 2, 3, 4]
    assert sorted(chosen[:3, 1]) == [0, 1, 2]
    assert np.array_equal(chosen[:4], datasets.one_of_each(data, 4, seed=1))
    assert not np.array_equal(chosen, datasets.one_of_each(data, 7, seed=2))


def test_components_of_different_priors_are_judged_in_their_places(sampler, drawn_from):
    priors = [soft_blobs((3, 8, 8), std=0.2, length=length) for length in (3.0, 0.5)]
    data = [drawn_from(prior, 30) for prior in priors]
    rows = datasets.one_of_each(data, 20, seed=0).T
    truth = torch.stack([each[row] for each, row in zip(data, rows, strict=True)])

    def judged(answer):
        sampler("known", lambda *_, seeds, watch: answer)
        return protocols.evaluate_separation(data, priors, pairs=20, sampling=Sampling("known"), compute=ALL)

    right, wrong = judged(truth), judged(truth.flip(0))
    assert right["protocol"] == "one of each"
    assert right["psnr"]["mean"] == pytest.approx(100)
    assert right["quality"]["separations"]["psnr"] == pytest.approx(100)
    assert right["assigned"]["truth"] == wrong["assigned"]["truth"] == {"by likelihood": 1}
    assert right["assigned"]["separations"] == {"by likelihood": 1, "by distance": 1}
    assert wrong["psnr"]["mean"] < 20
    assert wrong["assigned"]["separations"] == {"by likelihood": 0, "by distance": 0}


def test_data_sets_that_do_not_fit_the_components():
    gray, colour = blank(), Dataset("blobs", "test", np.zeros((3, 3, 1, 1), np.uint8), np.zeros(3, int))
    prior = soft_blobs((1, 1, 1))
    for data in ([gray, colour], [gray] * 3):
        with pytest.raises(UsageError, match="data sets for 2 components"):
            protocols.evaluate_separation(data, [prior, prior], pairs=2)


def test_best_of_several_samples_per_value_and_per_picture():
    truth = torch.zeros(2, 1, 1, 2)
    samples = torch.tensor([[0.3, 0.1], [0.0, 0.4]]).view(1, 2, 1, 1, 2).expand(2, -1, -1, -1, -1)
    found = metrics.best_of(samples, truth)
    assert found["one"]["mse"] == pytest.approx((0.09 + 0.01) / 2)
    assert found["best picture"]["rms"] == pytest.approx((0.1 / 2) ** 0.5)
    assert found["best value"]["rms"] == pytest.approx((0.01 / 2) ** 0.5)
    assert found["variance"]["mean"] == pytest.approx((0.15**2 + 0.15**2) / 2)

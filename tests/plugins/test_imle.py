"""Conditional IMLE: no mode is dropped, codes are chosen module by module, what comes out agrees with what went in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from basis_imle import files, layouts, network, search, training
from basis_imle.distance import FeatureDistance, pyramid_distance
from basis_imle.model import Imle
from basis_imle.network import NOISE, STYLE, Generator
from PIL import Image
from torch import nn

from basis_cli.data.datasets import Dataset
from basis_cli.errors import InputError, UsageError, WeightsError
from basis_cli.operators import Downsample, Gray
from basis_cli.training import Settings

SMALL = {"channels": (8, 8, 8), "growth": (4, 4, 4), "blocks": (1, 1, 1)}
SIZE = (16, 16)


def small(task="colorize", **more):
    torch.manual_seed(0)
    return Generator(task, classes=10, factor=4, **SMALL | more)


def distance(x, y):
    return (x - y).square().mean((1, 2, 3))


def observed(task, n=3):
    x = torch.rand(n, 4, *SIZE, generator=torch.Generator().manual_seed(1))
    x[:, 3] = torch.randint(10, (n, *SIZE), generator=torch.Generator().manual_seed(2)) / 255
    return training.observed(task, x if task == "paint" else x[:, :3], torch.Generator().manual_seed(0), 4), x[:, :3]


def test_imle_covers_both_of_two_equally_likely_answers_where_a_regressor_gives_their_mean():
    """The toy of the paper: for one condition the truth is -1 or 1."""
    torch.manual_seed(0)
    truth = torch.tensor([-1.0, 1.0]).repeat(32)[:, None]

    def trained(m):
        """With ``m`` codes for each truth; one code that is always the same is regression."""
        net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(200):
            z = torch.randn(len(truth), m, 4) if m > 1 else torch.zeros(len(truth), 1, 4)
            with torch.no_grad():
                nearest = (net(z) - truth[:, None]).abs()[..., 0].argmin(1)
            loss = (net(z[torch.arange(len(truth)), nearest]) - truth).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return net(torch.randn(500, 4) if m > 1 else torch.zeros(500, 4))[:, 0]

    answers, regression = trained(10), trained(1)
    assert regression.abs().max() < 0.2
    assert 0.25 < (answers > 0.5).float().mean() < 0.75
    assert 0.25 < (answers < -0.5).float().mean() < 0.75


def tried(network, counts, n=3):
    return training.candidates(0, 0, n, counts)


@pytest.mark.parametrize("task", ["colorize", "paint", "upscale", "decompress"])
def test_the_search_finds_what_it_says(task):
    network, (y, x) = small(task), observed(task)
    seeds, nearest = search.hierarchical_search(network, y, x, tried(network, (4, 3, 2)), distance)
    z = search.codes(seeds, network.lengths(SIZE), x.device)
    with torch.no_grad():
        assert torch.allclose(distance(network(y, z, SIZE)[-1], x), nearest, atol=1e-5)


def test_choosing_module_by_module_is_choosing_among_all_when_the_later_ones_are_constant():
    network, (y, x) = small(), observed("colorize")
    candidates = tried(network, (12, 1, 1))
    seeds, _ = search.hierarchical_search(network, y, x, candidates, distance)
    for i in range(len(x)):
        every = torch.tensor([[first, candidates[1][i, 0], candidates[2][i, 0]] for first in candidates[0][i]])
        z = search.codes(every, network.lengths(SIZE), x.device)
        with torch.no_grad():
            small_pictures = network(y[i : i + 1].expand(12, -1, -1, -1), z, SIZE)[0]
        best = distance(small_pictures, search.targets(x[i : i + 1], 3)[0].expand(12, -1, -1, -1)).argmin()
        assert seeds[i, 0] == candidates[0][i, best]


def test_a_pictures_codes_do_not_depend_on_the_pool():
    network, (y, x) = small(), observed("colorize", 5)
    candidates = tried(network, (6, 4, 3), 5)
    order = torch.tensor([3, 1, 4, 0, 2])
    seeds, nearest = search.hierarchical_search(network, y, x, candidates, distance)
    others, other_nearest = search.hierarchical_search(
        network, y[order], x[order], [each[order] for each in candidates], distance
    )
    assert torch.equal(seeds[order], others)
    assert torch.allclose(nearest[order], other_nearest, atol=1e-6)


def test_more_candidates_come_nearer():
    network, (y, x) = small(), observed("colorize", 8)
    for part in network.parts:  # as initialized the codes hardly matter
        nn.init.normal_(part.picture.parametrizations.weight.original0, std=3.0)
    many = tried(network, (1, 1, 40), 8)
    found = [
        search.hierarchical_search(network, y, x, [*many[:2], many[2][:, :m]], distance)[1].mean() for m in (1, 5, 40)
    ]
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize(
    ("task", "operator"), [("colorize", Gray((0.299, 0.587, 0.114))), ("upscale", Downsample(4, SIZE))]
)
def test_answers_agree_with_what_was_observed(task, operator):
    network, (y, _) = small(task), observed(task)
    x = training.answers(network, y, [1, 2, 3], SIZE)
    assert torch.allclose(operator(x[None]), y, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 6)])
def test_what_is_enlarged_has_the_means_and_no_edges(size):
    means = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    x = network.enlarged_to_means(means, 8)
    assert torch.allclose(F.avg_pool2d(x, 8), means, atol=1e-5)
    steps = x.diff(dim=3).abs()
    assert steps.max() < 0.5 * (means.amax() - means.amin() + 1e-6)  # blocks would take one step
    flat = torch.full((1, 3, *size), 0.3)
    assert torch.allclose(network.enlarged_to_means(flat, 8), torch.full((1, 3, 8 * size[0], 8 * size[1]), 0.3))


def test_codes_are_white_and_say_style_and_noise():
    network = small()
    assert network.sizes(SIZE) == [(4, 4), (8, 8), (16, 16)]
    assert network.lengths(SIZE) == [STYLE + NOISE * side**2 for side in (4, 8, 16)]
    z = search.code(range(50), 500, torch.device("cpu"))
    assert abs(float(z.mean())) < 0.03
    assert abs(float(z.std()) - 1) < 0.02
    assert torch.equal(search.code([7], 500, torch.device("cpu"))[0], z[7])


def test_distances():
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    full = FeatureDistance()
    for d in (pyramid_distance, full):
        assert torch.allclose(d(x, x), torch.zeros(2), atol=1e-6)
        assert (d(x, y) > 0).all()
        assert torch.allclose(d(x, y), d(y, x), atol=1e-5)
    flat = torch.full((1, 3, 32, 32), 0.25)
    assert float(pyramid_distance(flat, flat + 0.5)) == pytest.approx(0.5)  # in the last band alone
    checks = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 - 0.5).expand(1, 3, 32, 32)
    assert float(pyramid_distance(checks, 0 * checks)) == pytest.approx(0.5)  # in the first band alone
    assert torch.equal(full(x[..., :8, :8], y[..., :8, :8]), pyramid_distance(x[..., :8, :8], y[..., :8, :8]))


def pictures(channels=3, n=12):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, channels, *SIZE), dtype=np.uint8)
    if channels == 4:
        images[:, 3] %= 10
    return Dataset("toy", "train", images, np.zeros(n, np.int64))


def trained(folder, task="colorize", steps=6, resume=False, **more):
    config = {"task": task, "classes": 10, "factor": 4} | {name: list(values) for name, values in SMALL.items()}
    settings = Settings(steps=steps, batch=4, warmup=1, optimizer="adam", save_every=3, flip=True, **more)
    data = pictures(4 if task == "paint" else 3)
    return training.train(
        data, data, folder, settings, config=config, samples=(2, 1, 2), pool=5, round_steps=4, resume=resume
    )


@pytest.mark.parametrize("task", ["colorize", "paint", "upscale", "decompress"])
def test_every_task_trains_and_its_file_answers(tmp_path, task):
    network = files.read(trained(tmp_path, task))
    y, _ = observed(task)
    if task == "paint":
        y = torch.stack([torch.from_numpy(layouts.drawn(one.numpy())) for one in y])
    model = Imle(files.plain(network), SIZE)
    x = model.sample(y, [1, 2, 3])
    assert x.shape == (3, 3, *SIZE)
    assert x.min() >= 0
    assert x.max() <= 1
    assert torch.equal(model.sample(y[1:2], [2]), x[1:2])
    assert not torch.equal(model.sample(y[1:2], [3]), x[1:2])


def test_a_run_that_was_killed_within_a_round_goes_on_as_if_it_had_not_been(tmp_path):
    unbroken = files.read(trained(tmp_path / "unbroken", steps=9, decay="constant")).state_dict()
    trained(tmp_path / "killed", steps=6, decay="constant")  # in the middle of the second round
    resumed = files.read(trained(tmp_path / "killed", steps=9, decay="constant", resume=True)).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


def test_norms_are_multiplied_in_for_use():
    network, (y, _) = small(), observed("colorize")
    with torch.no_grad():
        before = training.answers(network, y, [1, 2, 3], SIZE)
        after = training.answers(files.plain(network), y, [1, 2, 3], SIZE)
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 28), (17, 33)])
def test_answers_of_any_size(size):
    x = Imle(small()).sized(size).sample(torch.rand(1, 1, *size), [0])
    assert x.shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("config", "data", "reason"),
    [
        ({"task": "guess"}, pictures(), "no task"),
        ({"task": "paint", "classes": 10}, pictures(), "3 channels"),
        ({"task": "colorize"}, pictures(4), "4 channels"),
        ({"task": "upscale", "factor": 5}, pictures(), "cannot be shrunk"),
        ({"task": "colorize", "channels": [8] * 6, "growth": [4] * 6, "blocks": [1] * 6}, pictures(), "no multiples"),
        ({"task": "colorize", "channels": [8, 8]}, pictures(), "for each module"),
        ({"task": "colorize", "channels": [8], "growth": [4], "blocks": [1]}, pictures(), "as many counts"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, config, data, reason):
    with pytest.raises(UsageError, match=reason):
        training.train(data, data, tmp_path, Settings(steps=1), config=config, samples=(2, 2, 2, 2))


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError):
        files.read(tmp_path / "x.safetensors")


def test_layouts_are_read_as_numbers_palettes_and_colours(tmp_path):
    classes = np.arange(100, dtype=np.uint8).reshape(10, 10) % 10
    Image.fromarray(classes).save(tmp_path / "gray.png")
    palette = Image.fromarray(classes).convert("P")
    palette.putdata(classes.flatten().tolist())
    palette.save(tmp_path / "palette.png")
    colours = (np.moveaxis(layouts.drawn(classes), 0, -1) * 255 + 0.5).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    for name in ("gray", "palette", "colours"):
        assert np.array_equal(layouts.read(tmp_path / f"{name}.png"), classes), name
    assert np.array_equal(layouts.classes_of(np.moveaxis(colours / 255, -1, 0), "x"), classes)
    colours[0, 0] = 1, 2, 250
    Image.fromarray(colours).save(tmp_path / "other.png")
    with pytest.raises(InputError, match="#0102fa"):
        layouts.read(tmp_path / "other.png")
    Image.fromarray(classes + 20).save(tmp_path / "high.png")
    with pytest.raises(InputError, match=r"20, 21, 22, 23, 24 and 5 more"):
        layouts.read(tmp_path / "high.png")


def test_layouts_of_a_folder(tmp_path):
    with pytest.raises(InputError, match="no layouts"):
        layouts.load(tmp_path, "train")
    for kind in ("images", "labels"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(tmp_path / "train" / "images" / "a.png")
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(tmp_path / "train" / "labels" / "a.png")
    found = layouts.load(tmp_path, "train")
    assert found.images.shape == (1, 4, 8, 8)
    assert (found.images[0, 3] == 3).all()
    Image.fromarray(np.full((8, 9), 3, np.uint8)).save(tmp_path / "train" / "labels" / "a.png")
    with pytest.raises(InputError, match="another size"):
        layouts.load(tmp_path, "train")


def test_gradients_reach_every_module():
    network, (y, x) = small(), observed("colorize")
    model = training.Chosen(network, 3, y.shape[1:])
    model.y.copy_(y)
    model.seeds.copy_(torch.arange(9).view(3, 3))
    training.imle_loss(model, x, torch.arange(3), pyramid_distance).backward()
    assert all(
        p.grad is not None and F.normalize(p.grad.flatten(), dim=0).isfinite().all() for p in network.parameters()
    )

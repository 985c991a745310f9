"""Score networks: their equations, the published RefineNet's numbers, files, conversion, losses, training."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from basis_ncsn import convert, prior, refinenet, training, unet
from basis_ncsn.network import NETWORKS, RefineNet, UNet
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from basis_cli.api import AnySize, PriorSpec
from basis_cli.data.datasets import Dataset
from basis_cli.errors import BasisError, UsageError, WeightsError
from basis_cli.training import Settings

SMALL = {"channels": 1, "filters": 8, "levels": 4}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def wave(count: int, start: int = 0) -> Tensor:
    """``count`` numbers in [-1, 1] that look random and are the same everywhere: sines of squares modulo a prime."""
    i = torch.arange(start, start + count, dtype=torch.int64)
    return torch.sin((i * i % 10007).double()).float()


def filled(net: nn.Module) -> nn.Module:
    """``net`` with every parameter set by :func:`wave`, at a scale that keeps activations near one."""
    state, start = {}, 0
    for name, tensor in sorted(net.state_dict().items()):
        values = wave(tensor.numel(), start).view(tensor.shape)
        start += tensor.numel()
        state[name] = 1 + 0.3 * values if "embed" in name else 0.7 * values / math.sqrt(max(1, tensor[0].numel()))
    net.load_state_dict(state)
    return net.eval()


def pictures(n: int, c: int, size: int) -> Tensor:
    return 0.5 + 0.5 * wave(n * c * size * size).view(n, c, size, size)


def roughened(net: nn.Module) -> nn.Module:
    """``net`` with noise on every parameter: as initialized, some are zero and hide what is behind them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return net


# --- U-Net ---------------------------------------------------------------------------------------------------------

UNETS = [
    ({"widths": (64, 128)}, 28),
    ({"widths": (16, 32), "patch": 1, "blocks": 1}, 28),
    ({"widths": (16, 24, 64), "channels": 3}, 32),
    ({"widths": (32,), "patch": 4}, 32),
    ({"widths": (16, 32), "blocks": 1, "attention": False}, 20),
]


@pytest.mark.parametrize(("config", "size"), UNETS)
def test_unet_starts_as_the_best_linear_denoiser(config, size):
    net = UNet(**config, mean=0.3, std=0.2)
    x = pictures(3, config.get("channels", 1), size)
    sigma = torch.tensor([0.01, 0.2, 1.0])
    shrink = (0.04 / (0.04 + sigma**2))[:, None, None, None]
    torch.testing.assert_close(net(x, sigma), 0.3 + shrink * (x - 0.3))


@pytest.mark.parametrize(("config", "size"), UNETS)
def test_unet_score_is_tweedies_and_every_parameter_learns(config, size):
    net = roughened(UNet(**config))
    x = pictures(2, config.get("channels", 1), size)
    sigma = torch.tensor([0.05, 0.7])
    score = net.score(x, sigma)
    assert score.shape == x.shape
    torch.testing.assert_close(x + sigma.view(-1, 1, 1, 1) ** 2 * score, net(x, sigma))
    net(x, sigma).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_unet_treats_each_picture_by_itself():
    net = roughened(UNet(widths=(16, 32))).eval()
    x, sigma = pictures(3, 1, 28), torch.tensor([0.02, 0.3, 1.2])
    together = net(x, sigma)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], sigma[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("sigma", "c_in", "c_skip", "c_out", "c_noise"),
    [
        (0.15, 4, 0.64, 0.12, -0.4742800),
        (0.2, 3.5355339, 0.5, 0.14142136, -0.4023595),
        (1.0, 0.98058068, 1 / 26, 0.19611614, 0),
    ],
)
def test_unet_is_preconditioned_as_in_karras_et_al(monkeypatch, sigma, c_in, c_skip, c_out, c_noise):
    """Table 1, ``D = c_skip x + c_out F(c_in x, c_noise)``, around the data's mean, for a standard deviation of 0.2."""
    asked = []

    def raw(x: Tensor, noise: Tensor, given: bool = False) -> Tensor:
        asked.append((x, noise))
        return torch.ones_like(x)

    net = UNet(widths=(16, 32), mean=0.3, std=0.2).eval()
    monkeypatch.setattr(net, "raw", raw)
    x = pictures(3, 1, 28)
    denoised = net(x, torch.tensor([sigma]))
    torch.testing.assert_close(asked[0][0], c_in * (x - 0.3))
    assert asked[0][1].tolist() == pytest.approx([c_noise], abs=1e-6)
    torch.testing.assert_close(denoised, 0.3 + c_skip * (x - 0.3) + c_out)


def test_unet_sees_the_noise_level():
    net = roughened(UNet(widths=(16, 32))).eval()
    low, high = net.raw(pictures(1, 1, 28).repeat(2, 1, 1, 1), torch.tensor([-1.0, 0.0]))
    assert (low - high).abs().max() > 1e-3


@pytest.mark.parametrize("config", [{"widths": (16, 32)}, {"widths": (16, 16, 32), "patch": 1}])
def test_unet_without_attention_takes_any_size(config):
    """And what it says of a place is what is near: the pictures here are the same but for the far end."""
    net = roughened(UNet(**config, blocks=1, attention=False)).eval()
    assert net.any_size
    assert not UNet(**config, blocks=1).any_size
    assert not [name for name in net.state_dict() if "attention" in name]
    sigma = torch.tensor([0.3])
    for sides in ((1, 1), (2, 1), (4, 4), (8, 36), (43, 13)):
        x = wave(math.prod(sides)).view(1, 1, *sides)
        assert net(x, sigma).shape == x.shape
        if min(sides) > 1:  # numpy cannot reflect a single pixel
            padded = np.pad(x.numpy(), [(0, 0), (0, 0), *((0, -side % 4) for side in sides)], mode="reflect")
            torch.testing.assert_close(net(x, sigma), net(torch.tensor(padded), sigma)[..., : sides[0], : sides[1]])
    wide = pictures(1, 1, 128)
    other = wide.clone()
    other[..., :16] = 1 - other[..., :16]
    change = (net(wide, sigma) - net(other, sigma)).abs()
    assert change[..., 64:].max() < 0.01 * change[..., :16].max()


@pytest.mark.parametrize("size", [(20, 28), (93, 95)])
def test_a_prior_of_any_size_is_sized_and_its_scores_do_not_depend_on_the_batch(size):
    net = roughened(UNet(channels=1, widths=(16, 32), blocks=1, attention=False)).to(memory_format=torch.channels_last)
    sized = prior.AnySizePrior(net, (1, 8, 8)).sized(size)
    assert isinstance(sized, AnySize)
    assert sized.shape == (1, *size)
    x = torch.rand(3, *sized.shape)
    together = sized.at(0.3).score(x)
    assert torch.equal(together, torch.cat([sized.at(0.3).score(one) for one in x.split(1)]))
    torch.testing.assert_close(together, net.score(x, torch.tensor([0.3])))


def test_normalization_is_not_rounded_to_bfloat16():
    x = 3 + torch.randn(2, 64, 5, 5).bfloat16()
    groups = x.double().view(2, 8, -1)
    normal = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    with torch.autocast("cpu", torch.bfloat16):
        found = unet.Norm(64)(x)
    torch.testing.assert_close(found.double(), normal.view(x.shape), rtol=1e-4, atol=1e-5)


def test_attention_is_softmax_attention_head_by_head():
    attention = roughened(unet.Attention(64))
    x = wave(2 * 64 * 9).view(2, 64, 3, 3)
    q, k, v = attention.qkv(attention.norm(x)).flatten(2).chunk(3, dim=1)  # each (n, channels, positions)
    heads = []
    for head in (slice(0, 32), slice(32, 64)):
        weights = (torch.einsum("ncp,ncq->npq", q[:, head], k[:, head]) / math.sqrt(32)).softmax(dim=2)
        heads.append(torch.einsum("npq,ncq->ncp", weights, v[:, head]))
    expected = x + attention.out(torch.cat(heads, dim=1).view(2, 64, 3, 3))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-4)


# --- RefineNet -----------------------------------------------------------------------------------------------------

# The authors' CondRefineNetDilated with the weights of `filled`, run once in float32: norm, six evenly spread values.
AUTHORS = {
    (1, 28): (41.608131, [-0.80054, -0.396262, -0.45806, -1.037532, -0.714451, -0.194745]),
    (1, 32): (47.967899, [-0.576766, -0.620126, -0.237041, -0.397575, -1.18775, -0.179374]),
    (3, 28): (102.153770, [1.107816, 0.36397, 1.501394, -1.127655, -0.789951, -0.70164]),
    (3, 32): (116.862907, [1.293517, 0.381691, 1.662004, -1.317529, -0.670306, -0.755875]),
}


@pytest.mark.parametrize(("channels", "size"), AUTHORS)
def test_refinenet_computes_what_the_authors_network_does(channels, size):
    net = filled(RefineNet(channels, filters=8, levels=4))
    norm, values = AUTHORS[channels, size]
    x, level = pictures(3, channels, size), torch.tensor([3, 0, 2])
    before = x.clone()
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.inference_mode():
            y = net.to(memory_format=layout)(x.contiguous(memory_format=layout), level).contiguous().flatten()
        at = torch.linspace(0, len(y) - 1, 6).long()
        torch.testing.assert_close(y[at], torch.tensor(values), atol=2e-5, rtol=1e-5)
        assert float(y.norm()) == pytest.approx(norm, rel=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("channels", "filters", "parameters", "digest"),
    [
        (1, 64, 7_638_657, "a38dc6727981d953f0755a64ea37e9b7360eebc3a073be7b957b091fda7f8d1e"),
        (3, 128, 30_117_635, "f8780b1654ad70cb56ddc832d84317eeb3240d8e4c5a16b4e272290bcfff7d0b"),
    ],
)
def test_refinenet_names_and_shapes_are_the_authors(channels, filters, parameters, digest):
    with torch.device("meta"):
        state = RefineNet(channels, filters, 10).state_dict()
    lines = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(state.items()))
    assert len(state) == 173
    assert sum(tensor.numel() for tensor in state.values()) == parameters
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


def test_refinenet_ladder_is_geometric():
    net = RefineNet(filters=8)
    paper = [1.0, 0.59948425, 0.35938137, 0.21544347, 0.12915497, 0.07742637, 0.04641589, 0.02782559, 0.01668101, 0.01]
    assert net.sigmas == pytest.approx(paper, rel=1e-6)
    torch.testing.assert_close(net.levels, torch.tensor(paper))
    assert all(isinstance(sigma, float) for sigma in net.sigmas)
    assert RefineNet(filters=8, levels=1, sigma_begin=0.3).sigmas == pytest.approx([0.3])
    assert RefineNet(filters=8, levels=2, sigma_begin=5, sigma_end=0.2).sigmas == pytest.approx([5, 0.2])


def test_linear_ladders():
    linear = refinenet.ladder("linear", 4)
    assert linear == pytest.approx((1.0, 0.67, 0.34, 0.01))
    assert RefineNet(filters=8, levels=4, schedule="linear").sigmas == pytest.approx(linear)
    assert refinenet.ladder("geometric", 10) == RefineNet(filters=8).sigmas
    with pytest.raises(ValueError, match="geometric, linear"):
        refinenet.ladder("cubic", 4)


def test_resnet_has_no_way_round_its_lowest_resolution():
    net = refinenet.ResNet(filters=8)
    x, level = torch.rand(2, 1, 8, 12), torch.tensor([0, 9])
    assert net(x, level).shape == x.shape
    assert not torch.equal(net(x, level), net(x, level.flip(0)))
    seen = []
    net.blocks[4].register_forward_hook(lambda *_: seen.append(_[2].shape))
    assert torch.allclose(net(x[:1], level[:1]), net(x, level)[:1], atol=1e-5)
    assert seen[0][1:] == (32, 2, 3)


def test_refinenet_score_on_the_ladder_is_the_network():
    net = filled(RefineNet(**SMALL))
    x = pictures(4, 1, 28)
    level = torch.tensor([2, 0, 3, 1])
    sigma = torch.tensor([net.sigmas[i] for i in level])
    torch.testing.assert_close(net.score(x, sigma), net(x, level))
    torch.testing.assert_close(net.score(x, sigma[:1]), net(x, torch.full((4,), 2)))


def test_refinenet_score_off_the_ladder_is_the_nearest_levels_rescaled():
    net = filled(RefineNet(**SMALL))  # levels 1, 0.215, 0.046, 0.01
    x = pictures(4, 1, 28)
    sigma = torch.tensor([0.5, 0.4, 2.0, 0.002])  # 0.5 is nearer to 0.215, but not in log sigma
    level = torch.tensor([0, 1, 0, 3])
    factor = torch.tensor([1 / 0.5, net.sigmas[1] / 0.4, 1 / 2.0, 0.01 / 0.002])
    torch.testing.assert_close(net.score(x, sigma), net(x, level) * factor[:, None, None, None])


def test_refinenet_is_differentiable_and_every_parameter_learns():
    net = filled(RefineNet(**SMALL))
    x = pictures(4, 1, 28).requires_grad_()
    level = torch.arange(4)
    net(x, level).square().sum().backward()
    assert x.grad.abs().min(dim=0).values.any()
    # in the last embedding alone every row is used: others would hide a level that is never looked up
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert net.normalizer.embed.weight.grad.any(dim=1).all()


def test_refinenet_starts_as_published():
    embed = RefineNet(filters=64).normalizer.embed.weight.detach()
    assert embed[:, 128:].eq(0).all()
    assert float(embed[:, :128].mean()) == pytest.approx(1, abs=0.005)
    assert float(embed[:, :128].std()) == pytest.approx(0.02, rel=0.15)


# --- files ---------------------------------------------------------------------------------------------------------

BACKBONES = [
    ("unet", {"channels": 1, "widths": (16, 32), "blocks": 1, "mean": 0.13, "std": 0.31}),
    ("unet", {"channels": 1, "widths": (16, 32), "blocks": 1, "attention": False}),
    ("refinenet", SMALL),
]


def saved(path: Path, backbone: str = "refinenet", config: dict | None = None, dtype=torch.float32) -> nn.Module:
    config = SMALL if config is None else config
    net = roughened(NETWORKS[backbone](**config)).eval()
    prior.save(path, net, backbone, config, (1, 28, 28), {"data": "none"}, dtype)
    return net


@pytest.mark.parametrize(("backbone", "config"), BACKBONES)
def test_round_trip(tmp_path, backbone, config):
    path = tmp_path / "w.safetensors"
    net = saved(path, backbone, config)
    x, sigma = pictures(2, 1, 28), torch.tensor([0.01, 0.3])
    again, shape = prior.read(path)
    assert shape == (1, 28, 28)
    assert torch.equal(again.eval().score(x, sigma), net.score(x, sigma))
    with safe_open(path, "pt") as file:
        assert file.metadata()["data"] == "none"


@pytest.mark.parametrize(("backbone", "config"), BACKBONES)
def test_round_trip_in_bfloat16(tmp_path, backbone, config):
    path = tmp_path / "w.safetensors"
    net = saved(path, backbone, config, torch.bfloat16)
    again, _ = prior.read(path)
    for (name, before), after in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert after.dtype == torch.float32
        torch.testing.assert_close(after, before, rtol=2**-8, atol=0, msg=name)
    x, sigma = pictures(2, 1, 28), torch.tensor([0.01, 0.3])
    before, after = net.score(x, sigma), again.eval().score(x, sigma)
    assert 0 < (after - before).norm() < 0.06 * before.norm()


def test_a_failed_save_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    saved(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BasisError, match="No space left"):
        saved(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def truncated(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:-100])


def another_format(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def another_width(path: Path) -> None:
    prior.save(path, RefineNet(**SMALL), "refinenet", SMALL | {"filters": 16}, (1, 28, 28), {})


def another_network(path: Path) -> None:
    prior.save(path, RefineNet(**SMALL), "unet", {"channels": 1}, (1, 28, 28), {})


def unknown_backbone(path: Path) -> None:
    prior.save(path, RefineNet(**SMALL), "glow", SMALL, (1, 28, 28), {})


def unknown_argument(path: Path) -> None:
    prior.save(path, RefineNet(**SMALL), "refinenet", SMALL | {"depth": 9}, (1, 28, 28), {})


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "cannot read weights"),
        (truncated, "cannot read weights"),
        (another_format, "does not hold a score network"),
        (another_width, "size mismatch for begin_conv.weight"),
        (another_network, "Missing key.*embed.0.weight"),
        (unknown_backbone, "glow"),
        (unknown_argument, "depth"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, write, reason):
    path = tmp_path / "w.safetensors"
    write(path)
    with pytest.raises(WeightsError, match=reason) as caught:
        prior.read(path)
    assert "w.safetensors" in caught.value.message
    assert caught.value.hint


def spec(shape=(1, 28, 28)) -> PriorSpec:
    return PriorSpec(name="digits", summary="", shape=shape, load="basis_ncsn.prior:load")


@pytest.mark.parametrize(("backbone", "config"), BACKBONES)
def test_load_gives_a_prior(tmp_path, backbone, config):
    path = tmp_path / "w.safetensors"
    net = saved(path, backbone, config)
    loaded = prior.load(spec(), path, torch.device("cpu"))
    assert loaded.shape == (1, 28, 28)
    assert loaded.sigmas == (net.sigmas if backbone == "refinenet" else None)
    x = pictures(2, 1, 28)
    score = loaded.at(0.3).score(x)
    assert not score.requires_grad
    torch.testing.assert_close(score, net.score(x, torch.full((2,), 0.3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("backbone", "config"), BACKBONES)
def test_a_pictures_score_does_not_depend_on_its_batch(tmp_path, backbone, config):
    path = tmp_path / "w.safetensors"
    saved(path, backbone, config)
    level = prior.load(spec(), path, torch.device("cpu")).at(0.3)
    x = pictures(7, 1, 28)
    together = level.score(x)
    for part in (slice(0, 1), slice(2, 3), slice(3, 5), slice(1, 7)):
        assert torch.equal(level.score(x[part]), together[part])


def test_load_refuses_what_is_not_for_this_prior(tmp_path):
    path = tmp_path / "w.safetensors"
    saved(path)
    with pytest.raises(WeightsError, match=r"\(1, 28, 28\).*\(3, 32, 32\)"):
        prior.load(spec((3, 32, 32)), path, torch.device("cpu"))
    with pytest.raises(WeightsError, match="needs weights"):
        prior.load(spec(), None, torch.device("cpu"))


# --- conversion ----------------------------------------------------------------------------------------------------


def published(channels: int = 1) -> tuple[RefineNet, dict[str, Tensor]]:
    """A network, and its state dict as ``DataParallel`` names it."""
    net = filled(RefineNet(channels, filters=8, levels=4))
    return net, {f"module.{name}": tensor for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    ("channels", "size", "shape"), [(1, None, (1, 28, 28)), (3, None, (3, 32, 32)), (1, 64, (1, 64, 64))]
)
@pytest.mark.parametrize("form", ["published", "legacy", "state dict", "bare", "wrapped", "compiled"])
def test_convert(tmp_path, channels, size, shape, form):
    checkpoint, out = tmp_path / "checkpoint.pth", tmp_path / "out.safetensors"
    net, state = published(channels)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.999), amsgrad=False).state_dict()
    bare = net.state_dict()
    compiled = {"model": {f"module.module._orig_mod.{name}": tensor for name, tensor in bare.items()}}
    others = {"state dict": state, "bare": bare, "wrapped": {"epoch": 3, "state_dict": state}, "compiled": compiled}
    content = others.get(form, [state, adam])
    torch.save(content, checkpoint, _use_new_zipfile_serialization=form != "legacy")
    about = convert.convert(checkpoint, out, *([size] if size else []))
    parameters = sum(p.numel() for p in net.parameters())
    assert about == {"channels": channels, "filters": 8, "levels": 4, "shape": shape, "parameters": parameters}
    again, shape_read = prior.read(out)
    assert shape_read == shape
    x, level = pictures(2, channels, 28), torch.tensor([1, 3])
    assert torch.equal(again.eval()(x, level), net(x, level))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "out.safetensors"]


def ncsnv2(state: dict[str, Tensor], x: Tensor, sigma: float) -> Tensor:
    """The network of Song & Ermon (2020) as its authors lay out its tensors, written out."""

    def conv(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        pad = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=pad, dilation=dilation)

    def norm(name: str, x: Tensor) -> Tensor:
        means = x.mean((2, 3))
        means = (means - means.mean(1, keepdim=True)) / (means.var(1, keepdim=True) + 1e-5).sqrt()
        gamma, alpha, beta = (state[f"{name}.{part}"][:, None, None] for part in ("gamma", "alpha", "beta"))
        return gamma * (F.instance_norm(x) + means[:, :, None, None] * alpha) + beta

    def block(name: str, x: Tensor, dilation: int, enter: bool) -> Tensor:
        h = conv(f"{name}.conv1", F.elu(norm(f"{name}.normalize1", x)), dilation)
        h = F.elu(norm(f"{name}.normalize2", h))
        if enter and dilation == 1:
            halved = [
                F.avg_pool2d(conv(f"{name}.{part}.conv", each), 2) for part, each in (("conv2", h), ("shortcut", x))
            ]
            return halved[0] + halved[1]
        h = conv(f"{name}.conv2", h, dilation)
        return h + (conv(f"{name}.shortcut", x, dilation) if enter else x)

    def units(name: str, x: Tensor, count: int) -> Tensor:
        for unit in range(1, count + 1):
            h = conv(f"{name}.{unit}_1_conv", F.elu(x))
            x = x + conv(f"{name}.{unit}_2_conv", F.elu(h))
        return x

    def refine(name: str, xs: list[Tensor], count: int = 1) -> Tensor:
        hs = [units(f"{name}.adapt_convs.{i}", x, 2) for i, x in enumerate(xs)]
        if len(hs) > 1:
            hs = [conv(f"{name}.msf.convs.{i}", h) for i, h in enumerate(hs)]
            hs[1] = F.interpolate(hs[1], xs[0].shape[2:], mode="bilinear", align_corners=True)
        h = path = F.elu(sum(hs))
        for i in range(2):
            path = conv(f"{name}.crp.convs.{i}", F.max_pool2d(path, 5, 1, 2))
            h = h + path
        return units(f"{name}.output_convs", h, count)

    h, layers = conv("begin_conv", 2 * x - 1), []
    for stage, dilation in enumerate((1, 1, 2, 4), 1):
        h = block(f"res{stage}.0", h, dilation, stage > 1)
        h = block(f"res{stage}.1", h, dilation, False)
        layers.append(h)
    h = refine("refine1", [layers[3]])
    h = refine("refine2", [layers[2], h])
    h = refine("refine3", [layers[1], h])
    h = refine("refine4", [layers[0], h], 3)
    return conv("end_conv", F.elu(norm("normalizer", h))) / sigma


def second(levels: int = 6) -> dict[str, Tensor]:
    """NCSNv2's tensors, random, as its authors name them."""
    state = {}
    for name, tensor in roughened(RefineNet(3, filters=8, levels=levels, version=2)).state_dict().items():
        if name.endswith("embed.weight"):
            parts = zip(("gamma", "alpha", "beta"), tensor[0].chunk(3), strict=True)
            state |= {f"{name.removesuffix('embed.weight')}{part}": values for part, values in parts}
        else:
            state[name] = tensor
    return state | {"sigmas": torch.tensor(np.geomspace(50, 0.01, levels))}


def test_convert_takes_the_averages_in_a_checkpoint_of_ncsnv2(tmp_path):
    checkpoint, out = tmp_path / "checkpoint_300000.pth", tmp_path / "out.safetensors"
    averages = second()
    sigmas = averages["sigmas"]
    newest = {f"module.{name}": 2 * tensor if name != "sigmas" else tensor for name, tensor in averages.items()}
    averages = {name: tensor for name, tensor in averages.items() if name != "sigmas"}
    torch.save([newest, {"state": {}, "param_groups": []}, 7, 300000, averages], checkpoint)
    about = convert.convert(checkpoint, out)
    assert (about["levels"], about["sigma_begin"], about["version"]) == (6, pytest.approx(50), 2)
    net, shape = prior.read(out)
    assert (shape, net.sigmas) == ((3, 32, 32), pytest.approx(sigmas.tolist()))
    x = pictures(2, 3, 32)
    for level in (1, 4):
        expected = ncsnv2(averages, x, float(sigmas[level]))
        torch.testing.assert_close(net.eval()(x, torch.tensor([level] * 2)), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(net.score(x, sigmas[level][None].float()), expected, rtol=1e-3, atol=1e-4)


def test_convert_names_what_ncsnv2_lacks(tmp_path):
    for change, reason in (
        (lambda state: state.pop("res1.0.normalize1.alpha"), "res1.0.normalize1.alpha or .beta is missing"),
        (lambda state: state.pop("refine4.crp.convs.1.weight"), "refine4.crp.convs.1.weight is missing"),
        (lambda state: state.update(sigmas=torch.linspace(50, 1, 6)), "no constant ratio"),
    ):
        state = second()
        change(state)
        torch.save([state], tmp_path / "checkpoint.pth")
        with pytest.raises(WeightsError, match=reason):
            convert.convert(tmp_path / "checkpoint.pth", tmp_path / "out.safetensors")


class Exploit:
    """Unpickled carelessly, creates a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_convert_never_runs_what_a_checkpoint_holds(tmp_path, write):
    target, checkpoint, out = tmp_path / "owned", tmp_path / "checkpoint.pth", tmp_path / "out.safetensors"
    write([published()[1], Exploit(target)], checkpoint)
    with pytest.raises(WeightsError, match=r"checkpoint\.pth") as caught:
        convert.convert(checkpoint, out)
    assert "could run code" in caught.value.hint
    assert not target.exists()
    assert not out.exists()
    pickle.loads(pickle.dumps(Exploit(target))).close()
    assert target.exists(), "the exploit itself must work, or this test shows nothing"


def without(name: str):
    return [{key: tensor for key, tensor in published()[1].items() if key != f"module.{name}"}, {}]


def changed(**tensors: Tensor):
    return [published()[1] | {f"module.{name}": tensor for name, tensor in tensors.items()}, {}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: without("begin_conv.weight"), "begin_conv.weight is missing"),
        (lambda: without("refine2.msf.norms.1.embed.weight"), "refine2.msf.norms.1.embed.weight is missing"),
        (lambda: changed(**{"res5.0.conv1.bias": torch.zeros(3)}), "res5.0.conv1.bias is unexpected"),
        (lambda: changed(**{"res1.1.conv2.bias": torch.zeros(3)}), r"res1.1.conv2.bias has shape \(3,\), not \(8,\)"),
        (lambda: changed(**{"begin_conv.bias": torch.zeros(())}), "has shape"),
        (lambda: changed(**{"normalizer.embed.weight": torch.zeros(())}), "has shape"),
        (lambda: UNet(widths=(16, 32)).state_dict(), "another network: attention.norm.bias is unexpected"),
        (lambda: [], "holds no state dict"),
        (lambda: {"state": [1, 2]}, "holds no state dict"),
        (lambda: {"state_dict": {"epoch": 3}}, "holds no state dict"),
        (lambda: [{"begin_conv.bias": torch.zeros(8)} | published()[1]], "holds several networks"),
        (lambda: torch.zeros(3), "holds no state dict"),
    ],
)
def test_convert_names_what_does_not_fit(tmp_path, content, reason):
    checkpoint, out = tmp_path / "checkpoint.pth", tmp_path / "out.safetensors"
    torch.save(content(), checkpoint)
    with pytest.raises(WeightsError, match=reason) as caught:
        convert.convert(checkpoint, out)
    assert "checkpoint.pth" in caught.value.message
    assert caught.value.hint
    assert not out.exists()


@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "text", "truncated"])
def test_convert_refuses_unreadable_files(tmp_path, damage):
    checkpoint, out = tmp_path / "checkpoint.pth", tmp_path / "out.safetensors"
    if damage == "folder":
        checkpoint.mkdir()
    elif damage != "missing":
        torch.save([published()[1], {}], checkpoint)
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(
            {"empty": b"", "text": b"<html>404</html>", "truncated": whole[: len(whole) // 2]}[damage]
        )
    with pytest.raises(WeightsError, match=r"checkpoint\.pth") as caught:
        convert.convert(checkpoint, out)
    assert caught.value.hint
    assert len(caught.value.message.splitlines()) == 1
    assert not out.exists()


def test_convert_says_where_it_cannot_write(tmp_path):
    torch.save([published()[1], {}], tmp_path / "checkpoint.pth")
    with pytest.raises(BasisError, match="cannot write"):
        convert.convert(tmp_path / "checkpoint.pth", tmp_path / "nowhere" / "out.safetensors")


# --- losses --------------------------------------------------------------------------------------------------------

MEAN, STD = 0.4, 0.3


class GaussianDenoiser(nn.Module):
    """``E[x0 | x]`` for ``x0 ~ N(MEAN, STD^2)``, plus a constant error; remembers the levels it was asked for."""

    def __init__(self, error: float = 0.0):
        super().__init__()
        self.error, self.seen = error, []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.seen.append(sigma)
        s = sigma[:, None, None, None]
        return MEAN + STD**2 / (STD**2 + s**2) * (x - MEAN) + self.error

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        return (self(x, sigma) - x) / sigma[:, None, None, None] ** 2


def gaussian_pictures(n: int) -> Tensor:
    return MEAN + STD * torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_denoising_loss_of_the_posterior_mean_is_one():
    """The error ``s^2 std^2 / (s^2 + std^2)`` times the weight is 1 at every level; anything else is worse."""
    x = gaussian_pictures(8192)

    def loss(error: float) -> float:
        generator = torch.Generator().manual_seed(2)
        return float(training.denoising_loss(GaussianDenoiser(error), x, generator, STD))

    assert loss(0.0) == pytest.approx(1, abs=0.02)
    low, high = training.SIGMAS  # E[(s^2 + std^2) / (s std)^2] where the density of log s rises linearly from nothing
    span = 2 * math.log(high / low)
    weight = 1 / STD**2 + 2 * low**-2 * (1 - math.exp(-span) * (1 + span)) / span**2
    for error in (-0.05, 0.05):
        assert loss(error) - loss(0.0) == pytest.approx(error**2 * weight, rel=0.25)


@pytest.mark.parametrize("highest", [1.4, 14.0])
def test_denoising_loss_visits_all_levels_the_high_ones_more_often(highest):
    net, n = UNet(1, (8, 32), 1, sigma_max=highest), 64
    seen = []
    net.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    training.loss_of(net)(net, gaussian_pictures(n), torch.Generator().manual_seed(0))
    low, high = math.log(training.SIGMAS[0]), math.log(highest)
    place = ((seen[0].log().double() - low) / (high - low)).square() * n
    assert place.floor().tolist() == list(range(n))  # one in each of n parts of equal probability


class GaussianScore(nn.Module):
    """The score of ``N(MEAN, STD^2 + sigma^2)`` by level, times a factor."""

    def __init__(self, sigmas: Tensor, factor: float = 1.0):
        super().__init__()
        self.sigmas_, self.factor = sigmas, factor

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return -self.factor * (x - MEAN) / (STD**2 + self.sigmas_[level][:, None, None, None] ** 2)


def test_score_matching_loss_of_the_true_score_is_the_theorys_and_minimal():
    x, sigmas = gaussian_pictures(8192), torch.tensor([1.0, 0.3, 0.1])

    def loss(factor: float) -> float:
        generator = torch.Generator().manual_seed(2)
        return float(training.score_matching_loss(GaussianScore(sigmas, factor), x, generator, sigmas))

    theory = 16 / 2 * float((STD**2 / (STD**2 + sigmas**2)).mean())
    assert loss(1.0) == pytest.approx(theory, rel=0.02)
    assert loss(0.9) > loss(1.0) < loss(1.1)


def test_sliced_objective_is_the_exact_score_matching_objective_up_to_a_constant():
    """For pictures from ``N(MEAN, STD^2)``, 16 pixels: ``E ||s||^2 / 2 + div s`` of ``s = -a (x - MEAN)``."""
    x = gaussian_pictures(20_000)
    for a in (0.5 / STD**2, 1 / STD**2, 1.5 / STD**2):
        value = training.sliced_objective(lambda x, a=a: -a * (x - MEAN), x, torch.Generator().manual_seed(3)).mean()
        distance = 16 * (a - 1 / STD**2) ** 2 * STD**2 / 2  # E ||s - grad log p||^2 / 2
        constant = -16 / STD**2 / 2
        assert float(value.detach()) == pytest.approx(distance + constant, abs=0.02 * abs(constant))


def test_sliced_loss_of_a_score_and_of_its_denoiser_is_the_theorys_and_minimal():
    x, sigmas = gaussian_pictures(8192), torch.tensor([1.0, 0.3, 0.1])

    def loss(network: nn.Module, is_denoiser: bool) -> float:
        generator = torch.Generator().manual_seed(2)
        return float(training.sliced_loss(network, x, generator, sigmas, is_denoiser).detach())

    theory = -16 / 2 * float((sigmas**2 / (STD**2 + sigmas**2)).mean())
    assert loss(GaussianScore(sigmas), False) == pytest.approx(theory, rel=0.02)
    assert loss(GaussianDenoiser(), True) == pytest.approx(theory, rel=0.02)
    assert loss(GaussianScore(sigmas, 0.9), False) > loss(GaussianScore(sigmas), False)
    assert loss(GaussianScore(sigmas, 1.1), False) > loss(GaussianScore(sigmas), False)


@pytest.mark.parametrize("backbone", ["unet", "resnet"])
@pytest.mark.usefixtures("no_sheet")
def test_sliced_score_matching_trains_every_network(tmp_path, backbone):
    config = {"widths": (16, 32), "blocks": 1} if backbone == "unet" else {"filters": 8, "levels": 2}
    after = run(tmp_path, backbone=backbone, config=config, objective="ssm", steps=2)
    assert all(tensor.isfinite().all() for tensor in after.values())
    with pytest.raises(UsageError, match="other settings"):
        run(tmp_path, backbone=backbone, config=config, resume=True, steps=2)


def test_denoising_error_of_the_posterior_mean_is_its_variance():
    exact = prior.ScorePrior(GaussianDenoiser(), (1, 4, 4))
    errors = training.denoising_error(exact, gaussian_pictures(2000), sigmas=(0.1, 1.0))
    assert errors == {
        f"denoising_error_{s}": pytest.approx(s**2 * STD**2 / (s**2 + STD**2), rel=0.03) for s in (0.1, 1.0)
    }


# --- training ------------------------------------------------------------------------------------------------------


def tiny(split: str) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset("tiny", split, rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), np.zeros(40, int))


def run(
    out: Path,
    *,
    resume: bool = False,
    backbone: str = "unet",
    config: dict | None = None,
    objective: str = "dsm",
    **settings,
) -> dict[str, Tensor]:
    settings = Settings(**({"steps": 6, "batch": 4, "warmup": 2, "save_every": 2} | settings))
    config = config or {"widths": (16, 32), "blocks": 1}
    path = training.train(
        tiny("train"),
        tiny("test"),
        out,
        settings,
        backbone=backbone,
        config=config,
        objective=objective,
        device="cpu",
        resume=resume,
    )
    return prior.read(path)[0].state_dict()


def killed_at(call: int, monkeypatch) -> None:
    """Ctrl-C in the middle of a step."""
    calls = iter(range(1, 1000))

    def loss(*args):
        if next(calls) == call:
            raise KeyboardInterrupt
        return real(*args)

    real = training.denoising_loss
    monkeypatch.setattr(training, "denoising_loss", loss)


@pytest.fixture
def no_sheet(monkeypatch):
    """Samples take longer than these runs."""
    monkeypatch.setattr(training, "sheet", lambda *args: None)


@pytest.mark.usefixtures("no_sheet")
@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_a_killed_run_resumes_as_the_unbroken_one(tmp_path, monkeypatch, optimizer):
    unbroken = run(tmp_path / "unbroken", optimizer=optimizer)
    with monkeypatch.context() as patch:
        killed_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", optimizer=optimizer)
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    resumed = run(tmp_path / "killed", resume=True, optimizer=optimizer)
    for name, tensor in unbroken.items():
        assert torch.equal(resumed[name], tensor), name
    other = run(tmp_path / "other", optimizer=optimizer, seed=1)
    assert any(not torch.equal(other[name], tensor) for name, tensor in unbroken.items())


def test_training_leaves_weights_metrics_and_samples(tmp_path):
    run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights.safetensors",
        "state.pt",
        "metrics.jsonl",
        "samples-0000006.png",
    }
    network_, shape = prior.read(tmp_path / "weights.safetensors")
    assert shape == (1, 8, 8)
    assert isinstance(network_, UNet)
    measured = tiny("train").images / 255
    assert (network_.mean, network_.std) == pytest.approx((measured.mean(), measured.std()), abs=1e-3)


@pytest.mark.usefixtures("no_sheet")
def test_training_refuses_to_mix_runs(tmp_path):
    run(tmp_path, steps=2)
    with pytest.raises(UsageError, match="already holds"):
        run(tmp_path, steps=2)
    with pytest.raises(UsageError, match="other settings"):
        run(tmp_path, resume=True, steps=2, batch=5)
    with pytest.raises(UsageError, match="other settings"):
        run(tmp_path, resume=True, steps=2, config={"widths": (32, 32), "blocks": 1})


@pytest.mark.usefixtures("no_sheet")
def test_refinenet_trains(tmp_path):
    before = {name: tensor.clone() for name, tensor in RefineNet(filters=8).state_dict().items()}
    after = run(tmp_path, backbone="refinenet", config={"filters": 8}, steps=2)
    assert after.keys() == before.keys()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert isinstance(prior.read(tmp_path / "weights.safetensors")[0], RefineNet)

"""Apple GPUs, as far as a CPU can tell: a device that is none, on which float64 is an error as it is there."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from basis_glow.layers import inverse
from basis_ncsn.prior import ScorePrior
from basis_ncsn.unet import UNet
from basis_toy import prior as toy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import basis_cli
from basis_cli import plugins
from basis_cli.compute import Compute
from basis_cli.errors import RunWarning, UsageError
from basis_cli.operators import Jpeg, standard_tables
from basis_cli.posterior import Sampling
from basis_cli.posterior.memory import batch_size, halved

MPS = torch.device("mps")


class OnMps(torch.Tensor):
    """Says that it is on an Apple GPU, and holds its values on the CPU."""

    @staticmethod
    def __new__(cls, values):
        if values.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, dtype=values.dtype, device=MPS, strides=values.stride()
        )

    def __init__(self, values):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


def dispatched(function, args, kwargs):
    """Computed on the CPU; the result is there if it was sent there, else where the arguments are."""
    held = []
    tree_map_only(OnMps, held.append, (args, kwargs))
    asked = kwargs.get("device")
    asked = torch.device(asked) if asked is not None else None
    if asked is not None and asked.type == "mps":
        kwargs = kwargs | {"device": "cpu"}
    on_mps = asked.type == "mps" if asked is not None else bool(held)
    if function is torch.ops.aten.copy_.default:
        on_mps = isinstance(args[0], OnMps)
    plain_args, plain_kwargs = tree_map_only(OnMps, lambda x: x.values, (args, kwargs))
    others = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if held and function is not torch.ops.aten.copy_.default:
        for x in others:
            assert isinstance(x, OnMps) or x.ndim == 0, f"{function} of tensors on two devices"
    result = function(*plain_args, **plain_kwargs)
    if function._schema.is_mutable:
        back = {id(x.values): x for x in held}
        return tree_map_only(torch.Tensor, lambda x: back.get(id(x), x), result)
    return tree_map_only(torch.Tensor, OnMps, result) if on_mps else result


class FakeMps(TorchDispatchMode):
    """Makes tensors on the device that is none."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


class SentToMps(TorchFunctionMode):
    """What torch refuses before it dispatches where it was built without such devices: ``x.to("mps")``, ``x[i]``,
    ``bool(x)`` ..."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.to:
            device, dtype, *_ = torch._C._nn._parse_to(*args[1:], **kwargs)
            if device is not None and device.type == "mps":
                x = args[0] if dtype is None else args[0].to(dtype)
                return x if isinstance(x, OnMps) else OnMps(x.detach())
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            if "not linked" not in str(error):
                raise
        result = function(*tree_map_only(OnMps, lambda x: x.values, args))
        if args[0].values is result:  # changed in place
            return args[0]
        return tree_map_only(torch.Tensor, OnMps, result)


@contextmanager
def on_mps(monkeypatch):
    """An Apple GPU is there."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with FakeMps(), SentToMps():
        yield


def sent(network):
    """A copy of a network, there. (``network.to`` would put the data into plain tensors.)"""
    network = deepcopy(network).requires_grad_(False)
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: OnMps(x.detach()) for name, x in tensors.items() if x is not None})
    return network


def test_the_fake_is_as_strict_as_the_device(monkeypatch):
    with on_mps(monkeypatch):
        x = torch.ones(2, 3, device="mps")
        assert x.device == MPS
        assert ((x + 1) @ torch.ones(3, 2, device="mps")).cpu().tolist() == [[6, 6], [6, 6]]
        x.mul_(3)
        x[0] = 1
        assert x.sum().item() == 12
        for wrong in (lambda: x.double(), lambda: torch.zeros(2).double().to("mps")):
            with pytest.raises(TypeError, match="float64"):
                wrong()
        with pytest.raises(AssertionError, match="two devices"):
            x + torch.ones(2, 3)


TASKS = {
    "separate": (lambda y, **how: basis_cli.separate(y, **how), "ep langevin project average"),
    "inpaint": (lambda y, **how: basis_cli.inpaint(y, "right", **how), "project langevin ascent"),
    "upscale": (lambda y, **how: basis_cli.upscale(y[..., :4, :4], 2, method="bicubic", **how), "project"),
    "decompress": (lambda y, **how: basis_cli.decompress(y, Jpeg(standard_tables(20)[:1], (8, 8)), **how), "project"),
}


@pytest.mark.parametrize(("name", "sampler"), [(name, each) for name in TASKS for each in TASKS[name][1].split()])
def test_answers_are_those_of_the_cpu(monkeypatch, name, sampler):
    torch.manual_seed(0)
    network = UNet(widths=(8, 32), blocks=1, attention=False)  # attention asks for the device before it dispatches
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    y = torch.rand(2, 1, 8, 8)

    def answered(network, device):
        how = {"levels": 2} if sampler != "average" else {}
        how |= {"steps": 2} if sampler in ("langevin", "ascent") else {}
        prior = ScorePrior(network, (1, 8, 8))
        options = {"sampling": Sampling(sampler, seed=5, **how), "compute": Compute(device, "float32"), "samples": 2}
        return TASKS[name][0](y, prior=prior, **options)

    here = answered(network, "cpu").components
    with on_mps(monkeypatch):
        there = answered(sent(network), "mps")
    assert there.components.device.type == "cpu"
    assert there.settings["device"] == "mps"
    assert there.settings["dtype"] == "float32"
    torch.testing.assert_close(there.components, here, rtol=0, atol=0)


def test_float64_of_priors_stays_on_the_cpu(monkeypatch):
    x, matrix = torch.rand(2, 1, 8, 8), torch.eye(4) + 0.1 * torch.rand(4, 4)
    spec = plugins.prior_spec("toy-mixture")
    here = toy.load(spec, None, torch.device("cpu")).at(0.1)
    with on_mps(monkeypatch):
        there = toy.load(spec, None, MPS).at(0.1)
        for made, expected in (
            (there.score(x.to("mps")), here.score(x)),
            (there.log_prob(x.to("mps")), here.log_prob(x)),
            (inverse(matrix.to("mps")), inverse(matrix)),
        ):
            assert made.device == MPS
            torch.testing.assert_close(made.cpu(), expected, rtol=0, atol=0)


def test_devices_that_are_not_there_and_precisions_that_are_not_used():
    with pytest.raises(UsageError, match="torch sees no Apple GPU"):
        Compute("mps").place  # noqa: B018
    with pytest.raises(UsageError, match="compute in float32"):
        Compute("mps", "bfloat16")


def test_memory(monkeypatch):
    assert batch_size([toy.load(plugins.prior_spec("toy-mixture"), None, torch.device("cpu"))], 10_000, MPS) == 2_000
    with pytest.warns(RunWarning, match="going on with 4"):
        assert halved(8, RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)")) == 4

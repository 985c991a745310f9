"""Where to compute, and in which precision."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from basis_cli import compute, training

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, False),
        ({"avx2": True, "avx512_f": True, "avx512_vnni": True}, False),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
        ({"arm_bf16": True}, True),
    ],
)
def test_a_cpu_multiplies_bfloat16_if_it_says_so(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert compute.multiplies_bfloat16(CPU) is expected
    assert compute.multiplies_bfloat16(torch.device("cuda"))


def test_a_cpu_that_cannot_be_asked_multiplies_no_bfloat16(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert compute.multiplies_bfloat16(CPU) is False


@pytest.mark.parametrize(("capable", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_where_the_cpu_multiplies_it_and_float32_is_never(monkeypatch, capable, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable}, raising=False)
    network = torch.nn.Linear(2, 2)
    for dtype, found in (("auto", expected), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        where = compute.Compute("cpu", dtype)
        with where.inference():
            assert network(torch.ones(1, 2)).dtype == found
        assert where.described()["dtype"] == str(found).removeprefix("torch.")


@pytest.mark.parametrize(("capable", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_networks_train_in_bfloat16_where_the_cpu_multiplies_it(tmp_path, monkeypatch, capable, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable}, raising=False)
    dtypes = []

    def loss(network, x, generator):
        out = network(x)
        dtypes.append(out.dtype)
        return out.float().square().mean()

    network = torch.nn.Linear(2, 2)
    settings = training.Settings(steps=1, batch=2, optimizer="adam")
    training.fit(network, loss, np.zeros((2, 1, 2, 2), np.uint8), settings, tmp_path, device="cpu")
    assert set(dtypes) == {expected}
    assert network.weight.dtype == torch.float32


def test_what_is_compiled_is_kept_in_the_users_cache_unless_another_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(compute.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "theirs")
    compute.compile_networks([])
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "theirs"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compute.compile_networks([])
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "basis" / "compiled")
    assert (tmp_path / "basis" / "compiled").is_dir()

"""Files of weights: the same every time, and never of weights that are no numbers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from basis_cli import checkpoint
from basis_cli.errors import NotFiniteError, WeightsError

TENSORS = {
    "matrix": torch.arange(6.0).view(2, 3).T,
    "half": torch.ones(3, dtype=torch.bfloat16),
    "step": torch.tensor(7),
}
NOTES = {
    "format": "test",
    "config": json.dumps({"widths": [8, 32]}),
    "data": 'MNIST, "train" \n ‖ é',
    "a": "",
    "z": "1",
}


def test_the_same_weights_are_the_same_bytes(tmp_path):
    path, seen = tmp_path / "a.safetensors", set()
    for _ in range(8):
        checkpoint.write(path, TENSORS, NOTES)
        seen.add(path.read_bytes())
    (content,) = seen
    assert int.from_bytes(content[:8], "little") % 8 == 0
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == NOTES
    tensors, notes = checkpoint.read(path)
    assert notes == NOTES
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, bad):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, TENSORS, NOTES)
    before = path.read_bytes()
    with pytest.raises(NotFiniteError, match=r"a\.safetensors is not written: half is not finite"):
        checkpoint.save(path, TENSORS | {"half": torch.tensor([1.0, bad]).bfloat16()}, NOTES)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_file_or_a_block_that_fails_is_an_error_of_the_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.write(path, TENSORS, NOTES)
    with checkpoint.opened(path, "test", "a test", "make one") as (tensors, notes):
        assert (len(tensors), notes["z"]) == (3, "1")
    with pytest.raises(WeightsError, match=r"does not hold a picture \(draw one\)"):
        checkpoint.opened(path, "picture", "a picture", "draw one").__enter__()
    with (
        pytest.raises(WeightsError, match="cannot read weights from .*: 'width'"),
        checkpoint.opened(path, "test", "a test", "") as (_, notes),
    ):
        notes["width"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="cannot read weights"):
        checkpoint.opened(path, "test", "a test", "").__enter__()
    with pytest.raises(WeightsError, match="cannot read weights"):
        checkpoint.opened(tmp_path / "none", "test", "a test", "").__enter__()

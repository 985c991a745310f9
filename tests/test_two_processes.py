"""Training on two processes at once, as ``accelerate launch`` or ``torchrun`` starts them, here on one CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from basis_cli.training import Settings

PROCESS = """
import sys, time
from pathlib import Path
import numpy as np, torch
from torch import nn
from basis_cli import training

class Offset(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1)[:, :2].double() - self.value

def loss(model, x, generator):
    if torch.is_grad_enabled():  # else it is what fit looks at before it saves
        seen.append(x.flatten(1)[:, :2].double())
    return (model(x) ** 2 + torch.exp(model(x))).mean()

rank, out = int(sys.argv[1]), Path(sys.argv[2])
images = np.random.default_rng(0).integers(0, 256, (200, 1, 2, 2), dtype=np.uint8)
how = {"batch": 4, "learning_rate": 0.05, "warmup": 1, "decay": "constant", "bf16": False}
report = {}
for name, more in (("counted", {"steps": 20, "save_every": 10, "sheet_every": 10}), ("timed", {"hours": 0.0001})):
    network, seen, steps = Offset(), [], []
    if name == "timed" and rank == 1:  # a clock by which this process would hardly ever end
        clock = time.monotonic
        time.monotonic = lambda: 1e-6 * clock()
    average = training.fit(
        network, loss, images, training.Settings(**how, **more), out / name, device="cpu",
        export=lambda network, path: path.write_text("weights"),
        sheet=lambda network, path: path.write_text("sheet"),
        evaluate=lambda network: {"held_out_loss": 1.0},
        callback=lambda step, metrics: steps.append(step),
    )
    report[name] = {"seen": torch.stack(seen), "value": network.value.detach(), "average": average.value}
    report[name]["steps"] = steps
torch.save(report, out / "report.pt")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each of the two saw and ended with, and its folder: they get different ones, to tell what each writes."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = []
    for rank in (0, 1):
        (folder / str(rank)).mkdir()
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": ""}
        environment = os.environ | {name: str(value) for name, value in places.items()}
        command = [sys.executable, "-c", PROCESS, str(rank), str(folder / str(rank))]
        both.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=180)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
    finally:
        for process in both:
            process.kill()
    reports = [torch.load(folder / str(rank) / "report.pt", weights_only=True) for rank in (0, 1)]
    return reports, [folder / "0", folder / "1"]


def test_two_processes_take_the_steps_of_one_with_all_their_pictures(runs):
    (first, second), _ = runs
    one, other = first["counted"], second["counted"]
    assert one["seen"].shape == other["seen"].shape == (20, 4, 2)
    assert not (one["seen"] == other["seen"]).all((1, 2)).any(), "each draws pictures of its own"
    value = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([value], 0.05, betas=(0.9, 0.99))
    for together in torch.cat([one["seen"], other["seen"]], dim=1):
        adam.zero_grad()
        left = together - value
        (left**2 + left.exp()).mean().backward()
        adam.step()
    torch.testing.assert_close(one["value"], value.detach(), rtol=1e-6, atol=1e-9)
    assert torch.equal(one["value"], other["value"])
    assert torch.equal(one["average"], other["average"])
    assert value.abs().min() > 0.1, "or this test shows nothing"


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_the_first_process_writes(runs):
    _, (first, second) = runs
    sheets = {"samples-0000010.png", "samples-0000020.png"}
    assert written(first / "counted") == {"metrics.jsonl", "state.pt", "weights.safetensors"} | sheets
    assert written(second / "counted") == written(second / "timed") == set()


def test_all_processes_end_by_the_clock_of_the_first(runs):
    """The second one's is a million times slower."""
    (first, second), _ = runs
    steps = [len(report["timed"]["seen"]) for report in (first, second)]
    assert steps[0] == steps[1] != Settings().steps
    assert steps[0] % 50 == 0
    assert torch.equal(first["timed"]["value"], second["timed"]["value"])
    assert first["timed"]["steps"] == second["timed"]["steps"]

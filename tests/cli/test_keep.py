"""``--keep`` of evaluations: what was drawn before the end came is not drawn again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basis_cli.cli import pool
from basis_cli.posterior import drawn as posterior_drawn
from basis_cli.posterior import kept

RUN = ("--prior", "toy-gaussian", "--levels", 2, "--batch", 2, "--json", "-q", "--keep", "kept")
EVALUATIONS = {
    "separation": (("evaluate", "separation", "--pairs", 6, *RUN), 3),
    "ranked": (("evaluate", "separation", "--pairs", 3, "--samples", 2, "--unknown", *RUN), 3),
    "inpainting": (("evaluate", "inpainting", "--data", "mnist", "--pictures", 5, *RUN), 3),
    "likelihood": (("evaluate", "likelihood", "--pictures", 3, "--pairs", 4, *RUN), 2),
}


@pytest.fixture
def drawn(monkeypatch, digits):
    """How many pictures each batch had; ``drawn.ends`` is the batch at which the run is killed."""
    monkeypatch.setenv("BASIS_DATA", str(digits()))
    draw = kept.drawn

    class Counted(list):
        ends = None

        def __call__(self, posterior, y, *args, **options):
            if len(self) == self.ends:
                raise KeyboardInterrupt
            self.append(len(y))
            return draw(posterior, y, *args, **options)

    counted = Counted()
    monkeypatch.setattr(kept, "drawn", counted)
    return counted


def figures(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout, object_hook=lambda d: {k: v for k, v in d.items() if k != "seconds"})


@pytest.mark.parametrize(("command", "batches"), EVALUATIONS.values(), ids=EVALUATIONS)
def test_an_evaluation_that_was_killed_goes_on(basis, drawn, command, batches):
    alone = figures(basis(*command[:-2]))
    assert drawn == []
    drawn.ends = batches - 1
    assert basis(*command).exit_code == 130
    assert len(list(Path("kept").iterdir())) == batches - 1
    drawn.ends = None
    assert figures(basis(*command)) == alone
    assert len(drawn) == batches  # none twice
    assert figures(basis(*command)) == alone
    assert len(drawn) == batches


def test_other_samples_are_not_taken_for_these(basis, drawn):
    command, batches = EVALUATIONS["separation"]
    first = figures(basis(*command))
    assert figures(basis(*command, "--seed", 1)) != first
    figures(basis(*command, "--overrelaxation", 0.5))
    figures(basis(*command, "--alpha", "0.7,0.3"))
    assert len(drawn) == 4 * batches
    assert figures(basis(*command)) == first
    assert len(drawn) == 4 * batches


def test_what_cannot_be_read_is_told(basis, drawn):
    command, _ = EVALUATIONS["separation"]
    basis(*command)
    broken = min(Path("kept").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    result = basis(*command)
    assert result.exit_code == 1
    assert f"cannot read the samples in {broken}" in result.stderr


def test_workers_share_each_file(basis, drawn, monkeypatch):
    shared = []

    class Stand:
        count = 2

        def __init__(self, workers, quiet=True): ...

        def drawn(self, posterior, y, seeds, compute, rank):
            shared.append(len(y))
            return posterior_drawn(posterior, y, seeds, compute=compute, rank=rank)

        def close(self): ...

    monkeypatch.setattr(pool, "Pool", Stand)
    command, _ = EVALUATIONS["separation"]
    alone = figures(basis(*command[:-2]))
    assert figures(basis(*command, "--workers", 2)) == alone
    assert shared == drawn == [4, 2]

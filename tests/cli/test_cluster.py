"""``--cluster``: the same files from Ray's actors and from array jobs, and none lost with a machine."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUICK = ("--prior", "toy-gaussian", "--levels", 3, "-q")


@pytest.fixture
def mixtures(basis):
    """``mixtures(n)`` writes as many, answers them in this process, and returns the answers' files by name."""

    def write(count):
        rng = np.random.default_rng(0)
        Path("in").mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"in/{i}.png")
        assert basis("separate", "in", *QUICK, "-o", "alone").exit_code == 0
        return contents("alone")

    return write


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.png")}


def test_array_jobs_write_the_same_files(basis, mixtures):
    pytest.importorskip("submitit")
    alone = mixtures(5)
    Path("in/5.png").write_bytes(b"no picture")
    result = basis("separate", "in", *QUICK, "--cluster", "slurm:local", "--workers", 2, "-o", "jobs")
    assert result.exit_code == 1
    assert "in/5.png" in result.stderr
    assert contents("jobs") == alone
    assert result.stdout.split() == [f"jobs/{i}.x{k}.png" for i in range(5) for k in (1, 2)]
    assert not Path("jobs/.slurm").exists()
    assert (
        json.loads(Path("jobs/3.json").read_text())["options"]
        == json.loads(Path("alone/3.json").read_text())["options"]
    )


def test_a_preempted_job_goes_on_with_what_is_left(basis, mixtures, monkeypatch):
    pytest.importorskip("submitit")
    from basis_cli.cli import job, workers

    alone = mixtures(3)
    given = []
    with monkeypatch.context() as instead:
        instead.setattr(job.Job, "_do", lambda self: given.append(self.given))
        basis("separate", "in", *QUICK, "-o", "out")
    worker = workers.Worker(given[0])
    pairs = [(f"in/{i}.png", str(i)) for i in range(3)]
    assert len(worker(workers.Chunk(pairs[:2])).records) == 2
    written = Path("out/0.x1.png").stat().st_mtime_ns
    again = worker.checkpoint(workers.Chunk(pairs))
    answered = again.function(*again.args)
    assert [record["stem"] for record in answered.records] == ["0", "1", "2"]
    assert Path("out/0.x1.png").stat().st_mtime_ns == written
    assert contents("out") == alone


@pytest.fixture
def cluster():
    """Two machines of one core each, here, and a function that ends the second."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    both = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = both.add_node(num_cpus=1)
    ray.init(both.address, log_to_driver=False, logging_level=logging.ERROR)
    yield lambda: both.remove_node(second, allow_graceful=False)
    ray.shutdown()
    both.shutdown()


def test_a_machine_that_dies_loses_nothing(basis, mixtures, cluster):
    alone = mixtures(200)
    ended = []

    def end():
        deadline = time.monotonic() + 120
        while not ended and time.monotonic() < deadline:
            if len(list(Path("out").glob("*.json"))) > 40:
                cluster()
                ended.append(len(list(Path("out").glob("*.json"))))
            time.sleep(0.01)

    watcher = threading.Thread(target=end)
    watcher.start()
    options = ("--cluster", "ray", "--workers", 2, "--batch", 4)
    result = basis("separate", "in", *QUICK, *options)
    watcher.join()
    assert result.exit_code == 0, result.stderr
    assert ended[0] < 200, "or it died too late"
    assert contents("out") == alone
    assert len(result.stdout.split()) == len(set(result.stdout.split())) == 400
    sent = basis("separate", "in/0.png", "in/1.png", *QUICK, "--cluster", "ray", "--send", "--jsonl", "-o", "sent")
    assert sent.exit_code == 0, sent.stderr
    assert contents("sent") == {name: content for name, content in alone.items() if name[:2] in ("0.", "1.")}
    lines = Path("sent/results.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["answers"][0]["components"][0] for line in lines) == [
        "sent/0.x1.png",
        "sent/1.x1.png",
    ]

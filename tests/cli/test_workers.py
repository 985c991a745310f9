"""``--workers``: the same files whoever computes them; what happens when one of them is killed, or mistaken."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basis_cli.cli import engines, job, workers
from basis_cli.errors import BasisError, UsageError

QUICK = ("--prior", "toy-gaussian", "--levels", 3, "-q")


@pytest.fixture
def mixtures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("in").mkdir()
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"in/{i}.png")


@pytest.fixture
def killer():
    """``killer(folder)`` begins a thread that kills a worker once a record is in ``folder``: that, and its victims."""
    victims = []

    def kill(folder):
        deadline = time.monotonic() + 60
        while not victims and time.monotonic() < deadline:
            if list(Path(folder).glob("*.json")) and (children := multiprocessing.active_children()):
                victims.append(children[0].pid)
                os.kill(children[0].pid, signal.SIGKILL)
            time.sleep(0.01)

    def begin(folder):
        thread = threading.Thread(target=kill, args=[folder])
        thread.start()
        return thread, victims

    return begin


@pytest.mark.usefixtures("mixtures")
def test_two_workers_write_the_same_files_in_the_same_order_though_one_is_killed(basis, killer, capfd):
    """And one that is no picture fails alone."""
    Path("in/7.png").write_bytes(b"no picture")
    alone = basis("separate", "in", *QUICK, "-o", "alone")
    thread, victims = killer("shared")
    shared = basis("separate", "in", *QUICK, "-o", "shared", "--workers", 2, "--batch", 2)
    thread.join()
    said = shared.stderr + capfd.readouterr().err
    assert victims
    assert (alone.exit_code, shared.exit_code) == (1, 1), said
    told, expected = ({line for line in text.splitlines()} for text in (said, alone.stderr))
    assert told <= expected
    assert all(line.startswith("warning: ") for line in expected - told), "the killed one's, of what it had done"
    assert "in/7.png" in said
    assert shared.stdout == alone.stdout.replace("alone/", "shared/")
    pictures = sorted(path.name for path in Path("alone").glob("*.png"))
    assert len(pictures) == 14
    for name in pictures:
        assert Path("shared", name).read_bytes() == Path("alone", name).read_bytes()
    record = json.loads(Path("shared/3.json").read_text())
    assert record["options"] == json.loads(Path("alone/3.json").read_text())["options"]
    Path("in/7.png").unlink()
    again = basis("separate", "in", *QUICK, "-o", "alone", "--workers", 2, "--skip-existing", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, {"results": []})


@pytest.mark.usefixtures("mixtures")
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--workers", "2", "--send"), 2, "--cluster"),
        (("--cluster", "slurm:local", "--slurm", "partition"), 2, "has no value"),
        (("--cluster", "kubernetes"), 2, "none of ray"),
        (("--workers", "none"), 2, "neither a number"),
        (("--workers", "0"), 2, "neither a number"),
        (("--workers", "gpus"), 2, "no GPU"),
    ],
)
def test_mistakes_are_said_once_with_their_code(basis, options, code, words, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    result = basis("separate", "in", "-q", *options)
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert result.stderr.count("error:") <= 1
    assert not list(Path().glob("out/*.png"))


@pytest.mark.usefixtures("mixtures")
def test_each_gpu_has_a_worker_of_its_own(basis, monkeypatch):
    """Three that are only counted; then two devices that any machine has, with processes."""
    jobs = []
    with monkeypatch.context() as instead:
        instead.setattr(job.Job, "_do", lambda self: jobs.append(self))
        basis("separate", "in", *QUICK, "--workers", "gpus")
    with monkeypatch.context() as instead:
        instead.setattr("torch.cuda.device_count", lambda: 3)
        engine = engines.chosen(jobs[0])
    assert [worker.device for worker in engine._workers] == ["cuda:0", "cuda:1", "cuda:2"]
    assert (engine.count, engine.at_a_time(10_000)) == (3, 512)
    monkeypatch.setattr(engines, "_gpus", lambda: ["cpu", "cpu:0"])
    with engines.chosen(jobs[0]) as engine:
        for slot, device in ((1, "cpu:0"), (0, "cpu")):
            engine.begin(slot).result()
            (given,) = engine.give([(slot, workers.Chunk([(f"in/{slot}.png", str(slot))]))])
            (record,) = engine.result(given).records
            assert record["settings"]["device"] == device


class Fragile:
    """In place of processes: workers that are lost whenever they are given picture 3, and once with 6."""

    count = 2

    def __init__(self):
        self.lost, self.chunks = [], {}

    def at_a_time(self, pictures):
        return 4

    def begin(self, slot):
        return self.give([(slot, None)])[0]

    def give(self, work):
        handles = [Future() for _ in work]
        self.chunks |= {handle: chunk for handle, (_, chunk) in zip(handles, work, strict=True)}
        return handles

    def wait(self, handles):
        return handles[:1]

    def result(self, handle):
        chunk = self.chunks[handle]
        names = [name for name, _ in chunk.pairs] if chunk else []
        if "3" in names or ("6" in names and ["6", "7"] not in self.lost):
            self.lost.append(names)
            raise workers.Lost("gone")
        return workers.Answered([{"input": name} for name in names], 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_lost_workers_pictures_are_done_again_and_a_picture_that_kills_is_given_up(capsys):
    engine = Fragile()
    pairs = [(str(i), str(i)) for i in range(8)]
    found = list(workers.shared(engine, pairs, quiet=True))
    done = [record["input"] for records, _ in found for record in records]
    assert sorted(done) == ["0", "1", "2", "4", "5", "6", "7"]
    assert sum(failed for _, failed in found) == 1
    assert [names for names in engine.lost if "3" in names] == [["0", "1", "2", "3"], ["2", "3"], ["3"]]
    assert "3: its worker was lost 3 times: gone" in capsys.readouterr().err


def test_workers_that_never_start_end_the_command():
    engine = Fragile()
    engine.result = lambda handle: (_ for _ in ()).throw(workers.Lost("no such module"))
    with pytest.raises(BasisError, match="no worker starts: no such module"):
        list(workers.shared(engine, [("1", "1")], quiet=True))


def test_errors_come_from_a_process_with_their_hint():
    import pickle

    for error in (UsageError("this", "that"), BasisError("this")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.message, again.hint) == (type(error), error.message, error.hint)


@pytest.mark.usefixtures("mixtures")
def test_ctrl_c_ends_all_and_keeps_what_is_done():
    command = [sys.executable, "-c", "from basis_cli.cli import main; main()", "separate", "in", "--prior"]
    command += ["toy-gaussian", "--levels", "400", "-q", "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(Path("out").glob("*.json")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "what was finished is kept" in errors
    records = [json.loads(path.read_text()) for path in Path("out").glob("*.json")]
    assert all(
        Path(name).exists() for record in records for answer in record["answers"] for name in answer["components"]
    )
    assert ended(process.pid)


def ended(group):
    """Whether no process of a group is left, within five seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False

"""Whatever plugins, files, disks and other runs do: one clear line, the right exit code, and nothing lost."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from basis_cli import checkpoint
from basis_cli.cli import output
from basis_cli.data import decoding, files
from basis_cli.errors import BasisError, InputWarning, WeightsError

TOY = ["--prior", "toy-mixture", "--sampler", "ep", "--levels", 3, "-q"]

PLUGIN = """
    import numpy as np
    import torch
    from basis_cli.api import PosteriorSpec, PriorSpec, SamplerSpec, hookimpl

    class Prior:
        shape, sigmas = (1, 8, 8), None

        def at(self, sigma):
            return self

        def score(self, x):
            return {score}

    def load(spec, weights, device):
        prior = Prior()
        {load}
        return prior

    def draw(priors, operator, y, {signature}):
        return y.expand(operator.k, *y.shape)

    @hookimpl
    def basis_priors():
        return [PriorSpec("odd", "", (1, 8, 8), load="odd_plugin:load")]

    @hookimpl
    def basis_samplers():
        return [SamplerSpec("strange", "", "odd_plugin:draw")]
"""


def odd(score="-x", load="pass", signature="*, seeds, sigmas=(1.0,), watch=None"):
    return PLUGIN.format(score=score, load=load, signature=signature)


def one_line(result, *says):
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.output
    assert all(said in result.stderr for said in says), result.stderr


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ("x[:, :, 0]", "has shape (2, 1, 8), not (2, 1, 8, 8)"),
        ("x.mean((1, 2, 3), keepdim=True)", "has shape (2, 1, 1, 1)"),  # would broadcast
        ("x.sum()", "has shape ()"),
        ("None", "is NoneType, not a tensor"),
        ("np.zeros(x.shape)", "is ndarray, not a tensor"),
        ("x.to('meta')", "not floats on cpu"),
        ("x.long()", "torch.int64 on cpu"),
        ("1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("{}['[/x] [bold]']", "failed: KeyError: '[/x] [bold]'"),
    ],
)
def test_a_prior_with_a_wrong_score_is_named(basis, picture, plugin, score, says):
    plugin("odd_plugin", odd(score))
    result = basis("separate", picture(), "--prior", "odd", "-q")
    assert result.exit_code == 1
    one_line(result, "the score of odd_plugin.Prior", says)
    assert not list(Path("out").glob("*.png"))


@pytest.mark.parametrize(
    ("load", "says"),
    [
        ("del Prior.sigmas", ".sigmas"),
        ("prior.sigmas = (0.1, 1.0)", "from high to low"),
        ("prior.sigmas = 3", ".sigmas"),
        ("prior.shape = 8", ".shape == (1, 8, 8)"),
        ("prior.at = lambda sigma: None", "has no score at noise level"),
        ("prior.at = lambda sigma: {}[sigma]", "failed: KeyError"),
    ],
)
def test_what_is_no_prior_is_named(basis, picture, plugin, load, says):
    plugin("odd_plugin", odd(load=load))
    result = basis("separate", picture(), "--prior", "odd", "-q")
    assert result.exit_code == 1
    one_line(result, "odd", says)


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        ("seed", "failed: TypeError"),
        ("*, seeds, watch, other", "missing a required argument: 'other'"),
        ("*, seeds, sigmas, watch", "has no noise levels by default"),
    ],
)
def test_a_sampler_with_another_signature_is_named(basis, picture, plugin, signature, says):
    plugin("odd_plugin", odd(signature=signature))
    result = basis("separate", picture(), "--prior", "toy-gaussian", "--sampler", "strange", "-q")
    assert result.exit_code == 1
    one_line(result, "the sampler 'strange'", says)


def test_names_are_shown_as_they_are(basis, picture):
    for name in ("[red]no.png", "[/].png", "a:cat:.png"):
        one_line(basis("separate", name, *TOY), name)
    one_line(basis("separate", picture(), "--prior", "[/x]", "-q"), "'[/x]'")
    done = basis("separate", picture("[bold]a:cat:.png"), *TOY[:-1], "--dry-run")
    assert "[bold]a:cat:.x1.png" in done.stderr


def test_a_name_too_long_for_its_results_fails_alone(basis, picture):
    long = picture("n" * 245 + ".png")
    result = basis("separate", long, picture(), *TOY)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "is too long for those of its results" in errors[0]
    assert sorted(path.name for path in Path("out").iterdir()) == ["mix.json", "mix.x1.png", "mix.x2.png"]


def test_a_link_into_nothing_is_not_replaced(basis, picture):
    Path("out").mkdir()
    Path("out/mix.x1.png").symlink_to("nowhere")
    assert basis("separate", picture(), *TOY).exit_code == 2
    assert os.readlink("out/mix.x1.png") == "nowhere"


class Endless(io.RawIOBase):
    def read(self, size=-1):
        assert size >= 0, "would read forever"
        return bytes(size)


class Failing(io.RawIOBase):
    def read(self, size=-1):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("stdin", "says"),
    [(Endless(), "has more than 1 MB"), (Failing(), "Input/output error"), (None, "is closed")],
)
def test_standard_input_that_ends_badly(monkeypatch, stdin, says):
    monkeypatch.setattr(decoding, "MAX_BYTES", 2**20)
    monkeypatch.setattr(sys, "stdin", stdin and io.TextIOWrapper(io.BytesIO()))
    if stdin:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": stdin}))
    with pytest.raises(BasisError, match=says):
        decoding.contents("-")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="of Linux")
def test_a_file_that_fails_when_it_is_read(basis):
    one_line(basis("separate", "/proc/self/mem", *TOY), "cannot read /proc/self/mem: Input/output error")


@pytest.mark.parametrize(
    ("number", "hint"), [(28, "free some space"), (13, "permissions"), (30, "read-only"), (36, "shorter"), (5, "disk")]
)
def test_the_hint_is_of_the_error(tmp_path, number, hint):
    with pytest.raises(BasisError, match=hint) as caught, files.atomically(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in caught.value.message
    assert number == 28 or "space" not in caught.value.hint


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with files.atomically(path) as one, files.atomically(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_half_written_is_removed(basis, picture):
    Path("out").mkdir()
    left, other = Path("out", files.partial_name("mix.x1.png")), Path("out", files.partial_name("mix.y.x1.png"))
    left.write_text("half"), other.write_text("of another run")
    assert basis("separate", picture(), *TOY).exit_code == 0
    assert not left.exists()
    assert other.exists()


def state(path, notes, **tensors):
    checkpoint.write(path, tensors or {"x": torch.zeros(1)}, {"format": "basis-state"} | notes)


@pytest.mark.parametrize("identity", [None, "{", "[]", "{}", '{"inputs": 3}'])
def test_a_state_that_says_nothing_of_its_run(basis, picture, identity):
    notes = {"identity": identity} if identity else {}
    Path("out").mkdir()
    state(Path("out/mix.state.safetensors"), notes)
    result = basis("separate", picture(), *TOY, "--resume")
    assert result.exit_code == 1
    one_line(result, "cannot resume from out/mix.state.safetensors")


def test_a_config_of_a_network_larger_than_the_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, {"weight": torch.zeros(100)}, {"format": "test"})
    began = time.monotonic()
    larger = pytest.raises(WeightsError, match="its notes are of a larger network")
    with larger, checkpoint.opened(path, "test", "a test", ""):
        torch.nn.Sequential(*(torch.nn.Linear(100, 100) for _ in range(1_000_000)))
    assert time.monotonic() - began < 30
    with checkpoint.opened(path, "test", "a test", ""):
        torch.nn.Linear(9, 10)


def test_a_checkpoint_given_as_weights_is_to_be_converted(basis, picture):
    torch.save({"a": torch.zeros(1)}, "checkpoint.pth")
    result = basis("separate", picture(), "--prior", "ncsn", "--weights", "checkpoint.pth", "-q")
    assert result.exit_code == 4
    one_line(result, "basis weights convert ncsn")


def test_plugins_left_out_are_mentioned(picture, tmp_path):
    picture()
    environment = os.environ | {"BASIS_PLUGINS": "toy,nope"}
    for arguments, code in ((["separate", "mix.png"], 3), (["train", "ncsn"], 2)):
        command = [sys.executable, "-m", "basis_cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code
        assert "BASIS_PLUGINS=toy,nope leaves out" in " ".join(done.stderr.split())


def test_only_this_projects_warnings_are_shown(capsys):
    with output.warnings_as_lines():
        warnings.warn("of a library", UserWarning, stacklevel=1)
        warnings.warn("[ours]", InputWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: [ours]\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
def test_a_full_standard_output(tmp_path):
    for arguments in (["--version"], ["priors", "list", "--json"]):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "basis_cli", *arguments]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: cannot write to standard output: No space left on device\n"


IMPORTING = """
import sys
from basis_cli.cli import main

class Announcing:
    def find_spec(self, name, path=None, target=None):
        if name == "basis_cli.cli.app":
            print("imports begin", flush=True)

sys.meta_path.insert(0, Announcing())
sys.argv = ["basis", "doctor"]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_while_modules_are_imported():
    for delay in (0, 0.05, 0.1):
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORTING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert "Traceback" not in stderr


CLOSING = """
import atexit, sys
from basis_cli import cli

done = cli.main

def main():
    atexit.register(print, "closed")
    done()

cli.main = main
cli.program()
"""


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["separate", "nowhere.png"], 1), (["--nothing"], 2)])
def test_what_is_open_is_closed_before_a_process_ends_at_once(words, code):
    done = subprocess.run([sys.executable, "-c", CLOSING, *words], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "closed"

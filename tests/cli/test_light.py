"""What must be quick: help and lists come without torch."""

from __future__ import annotations

import json
import subprocess
import sys

PROBE = """
import sys
from typer.testing import CliRunner
from basis_cli.cli.app import app
for arguments in {commands!r}:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    assert result.stdout.strip(), arguments
    assert not {{"torch", "diffusers", "huggingface_hub"}} & set(sys.modules), f"slow imports of {{arguments}}"
"""
COMMANDS = (
    "--help",
    "--version",
    "separate --help",
    "train ncsn --help",
    "train glow --help",
    "train features --help",
    "finetune-glow --help",
    "evaluate gradients --help",
    "priors list",
    "priors info ncsn-mnist",
    "plugins list",
    "weights list",
    "reproduce list",
)


def test_does_not_import_torch():
    code = PROBE.format(commands=COMMANDS)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_importing_the_package_does_not_import_torch():
    code = "import sys, basis_cli, basis_cli.api; assert 'torch' not in sys.modules; print(basis_cli.__version__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_module_and_console_script_agree():
    run = subprocess.run([sys.executable, "-m", "basis_cli", "--version"], capture_output=True, text=True)
    import basis_cli

    assert run.stdout == f"basis {basis_cli.__version__}\n"


def test_a_task_alone_is_the_command_that_it_is_among_all_others():
    """Which the console script makes, and no other, so that a small picture does not wait for those."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from basis_cli.cli import _app
    from basis_cli.cli.app import app

    alone = _app(["upscale", "--help"])
    assert list(get_command(alone).commands) == ["upscale"]
    one, all_of_them = (CliRunner().invoke(each, ["upscale", "--help"]).output for each in (alone, app))
    assert one == all_of_them
    assert _app(["evaluate"]) is _app([]) is _app(["--version", "upscale"]) is app


def test_priors_list_has_the_built_ins(basis):
    names = {row["name"]: row for row in json.loads(basis("priors", "list", "--json").stdout)}
    assert names["ncsn-mnist"]["shape"] == [1, 28, 28]
    assert names["toy-gaussian"]["plugin"] == "toy"


def test_unknown_prior_exits_3_with_a_suggestion(basis):
    result = basis("priors", "info", "ncsn-mnits")
    assert result.exit_code == 3
    assert "did you mean 'ncsn-mnist'" in result.stderr

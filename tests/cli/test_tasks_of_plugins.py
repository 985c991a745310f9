"""Tasks that plugins bring, in a process of their own: commands are made when the application is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

HOOK = """
from basis_cli.api import Damage, Task, hookimpl, tasks
{body}

@hookimpl
def basis_tasks():
    return [{name}]
"""
NAMELESS = """
class Nameless(Task):
    name = "nameless"
"""
UNREADABLE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Unreadable(Task):
    name, noun = "unreadable", "unreadability"
    length: "Nowhere" = 5
"""
SEPARATE = """
class Separate(Task):
    name, noun = "separate", "theft"
"""
INHERITED = """
from basis_cli.tasks.colorization import Colorize

class Tint(Colorize):
    name = "tint"
"""


def test_a_bad_task_harms_nobody_and_none_is_replaced(tmp_path):
    bodies = {"Nameless": NAMELESS, "Unreadable": UNREADABLE, "Separate": SEPARATE, "Tint": INHERITED}
    for name, body in bodies.items():
        module = name.lower()
        (tmp_path / f"their_{module}.py").write_text(HOOK.format(body=textwrap.dedent(body), name=name))
        info = tmp_path / f"their_{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-{module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[basis]\ntheir_{module} = their_{module}\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))

    def run(*arguments):
        command = [sys.executable, "-m", "basis_cli", *arguments]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = {row["name"]: row for row in json.loads(run("plugins", "list", "--json"))}
    assert "needs a name and a noun" in listed["their_nameless"]["error"]
    assert listed["their_unreadable"]["error"].startswith("NameError")
    assert listed["their_separate"]["refused"] == ["basis separate"]
    assert listed["their_tint"]["refused"] == ["basis evaluate colorization"]
    shown = run("--help")
    assert "tint" in shown
    assert "unreadable" not in shown
    assert "-k" in run("separate", "--help")

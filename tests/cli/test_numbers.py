"""Numbers that nothing can be computed with, for every numeric option of every command, those of plugins included."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from enum import EnumMeta as EnumType  # its name from 3.11 on
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from basis_cli.cli.app import app

ROOT = typer.main.get_command(app)
INTEGERS = st.integers(min_value=2**63) | st.integers(max_value=-(2**63)) | st.sampled_from(["inf", "1e30", "1.5"])
FLOATS = st.sampled_from(["inf", "-inf", "nan", "1e30", "-1e30", "1e-300", "1e400", 10**30])
FLOATS |= st.floats(allow_nan=True, allow_infinity=True).filter(lambda x: x and not 1e-9 <= abs(x) <= 1e9)


def commands(command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    for name, each in (below or {}).items():
        yield from commands(each, (*path, name))


def numeric(of) -> list[tuple[list[str], str]]:
    """Command lines, complete but for the last option, of the numeric options of a type."""
    found = []
    for path, command in commands(ROOT):
        line = list(path)
        for param in command.params:
            if param.required:
                kind = param.type_descriptor.annotation
                some = next(iter(kind)).value if isinstance(kind, EnumType) else "2"
                line += [param.opts[0], some] if param.opts[0].startswith("-") else [__file__]
        found += [
            (line, max(p.opts, key=len)) for p in command.params if p.type_descriptor.annotation in (of, list[of])
        ]
    return found


NUMERIC = {int: numeric(int), float: numeric(float)}


def outcome(*line: object) -> tuple[int, str]:
    """Exit code, and what is said on stderr."""
    with redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as end:
        ROOT([str(word) for word in line], prog_name="basis")
    return end.value.code, said.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_numbers_out_of_range_are_a_usage_error_that_names_the_option(data):
    of, values = data.draw(st.sampled_from([(int, INTEGERS), (float, FLOATS)]))
    line, option = data.draw(st.sampled_from(NUMERIC[of]))
    code, said = outcome(*line, f"{option}={data.draw(values)}")
    assert (code, option in said) == (2, True), said


def test_every_command_with_numbers_is_covered():
    assert len(NUMERIC[int]) > 150
    assert len(NUMERIC[float]) > 80


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--sigma-max=inf", "error: --sigma-max inf is no number to compute with\n"),
        ("--step-size=1e-300", "error: --step-size 1e-300 is out of range: 1e-09 to 1e+09\n"),
        (
            "--samples=9999999999999999999999",
            "error: --samples 9999999999999999999999 is out of range: 1000000 at most\n",
        ),
    ],
)
def test_one_line_says_what_is_wrong(option, said):
    assert outcome("separate", "mix.png", option) == (2, said)


def test_the_largest_seed_is_one(basis, picture):
    result = basis("separate", picture(), "--prior", "toy-mixture", "--seed", 2**63 - 1, "--levels", 2, "-q")
    assert result.exit_code == 0, result.output

"""``basis cite``: what to cite for an answer, and that everything which is offered can be cited."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from basis_cli import __version__, plugins
from basis_cli.citations import bibtex, references

ROOT = Path(__file__).parents[2]


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),$", text, re.M)


def test_the_software_and_its_paper_always(basis):
    result = basis("cite")
    assert result.exit_code == 0
    assert keys(result.stdout) == ["basis", "jayaram2020"]
    assert f"version = {{{__version__}}}" in result.stdout


def test_an_answer_cites_its_prior_and_its_sampler_once(basis, picture):
    run = ("separate", picture(), "--prior", "toy-gaussian", "--samples", 2, "--sampler", "mmps", "--levels", 2, "-q")
    assert basis(*run).exit_code == 0
    cited = keys(basis("cite", "out/mix.json", "mmps", "ncsn-mnist", "cinn-mnist").stdout)
    assert cited == ["basis", "jayaram2020", "rozet2024", "karras2022", "kong2023", "song2019", "ardizzone2019"]


def test_a_plugin_may_bring_an_entry_of_its_own(basis, plugin):
    entry = "@misc{mine2026, title = {Mine}}"
    spec = f'PriorSpec("mine", "", (1, 8, 8), load="mine:load", cites=({entry!r},))'
    hook = "@hookimpl\ndef basis_priors():\n"
    plugin("mine", f"from basis_cli.api import PriorSpec, hookimpl\n\n{hook}    return [{spec}]\n")
    assert basis("cite", "mine").stdout.endswith(f"{entry}\n")


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [("nobody", 3, "no prior, model or sampler is called 'nobody'"), ("out/none.json", 1, "is no record of an answer")],
)
def test_errors(basis, name, code, says):
    result = basis("cite", name)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr


def test_all_keys_are_known():
    specs = [*plugins.sampler_specs().values()]
    for one in plugins.plugins():
        specs += [*one.priors.values(), *one.posteriors.values()]
    assert {key for spec in specs for key in spec.cites} <= references().keys()
    assert keys(bibtex()) == ["basis", "jayaram2020"]


def test_the_version_is_the_same_everywhere():
    for file, line in (
        ("CITATION.cff", f"version: {__version__}"),
        ("pyproject.toml", f'version = "{__version__}"'),
        ("CHANGELOG.md", f"## [{__version__}]"),
    ):
        assert any(text.startswith(line) for text in (ROOT / file).read_text("utf-8").splitlines()), file

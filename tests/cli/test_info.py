"""``basis plugins list``, ``basis doctor`` and ``basis sample``, with good plugins and bad ones."""

from __future__ import annotations

import json
from pathlib import Path

GOOD = """
    from basis_cli.api import PriorSpec, hookimpl

    @hookimpl
    def basis_priors():
        return [PriorSpec("{prior}", "a test", (1, 8, 8), load="basis_toy.prior:load")]
"""


def test_broken_plugins_are_named_and_harm_nobody(basis, picture, plugin):
    plugin("raising", "raise RuntimeError('kaput')")
    plugin("rubbish", "from basis_cli.api import hookimpl\n@hookimpl\ndef basis_priors():\n    return 42\n")
    plugin("greedy", GOOD.format(prior="toy-mixture"))
    rows = {row["name"]: row for row in json.loads(basis("plugins", "list", "--json").stdout)}
    assert "kaput" in rows["raising"]["error"]
    assert "42" in rows["rubbish"]["error"]
    assert rows["greedy"]["clashes"] == ["toy-mixture"]
    assert not rows["toy"]["error"]
    table = basis("plugins", "list")
    assert "kaput" in table.stdout
    doctor = basis("doctor")
    assert doctor.exit_code == 1
    for culprit in ("raising", "rubbish", "greedy"):
        assert f"plugin {culprit}" in doctor.stdout
    run = basis(
        "separate", picture(), "--prior", "toy-mixture", "--sampler", "langevin", "--levels", 2, "--steps", 2, "-q"
    )
    assert run.exit_code == 0, run.output


def test_a_plugin_may_add_commands_and_samplers(basis, picture, plugin):
    plugin(
        "extra",
        """
        from basis_cli.api import SamplerSpec, hookimpl

        @hookimpl
        def basis_samplers():
            return [SamplerSpec("halves", "half each", "extra:halves")]

        def halves(priors, operator, y, *, seeds, watch):
            return operator.pinv(y)
        """,
    )
    result = basis("separate", picture(), "--prior", "toy-mixture", "--sampler", "halves", "-q")
    assert result.exit_code == 0, result.output
    assert Path("out/mix.x1.png").read_bytes() == Path("out/mix.x2.png").read_bytes()
    refused = basis("separate", "mix.png", "--prior", "toy-mixture", "--sampler", "halves", "--steps", 3, "-o", "b")
    assert refused.exit_code == 2
    assert "no option 'steps'" in refused.stderr


def test_sample_writes_pictures_a_sheet_and_a_record(basis):
    quick = ["--prior", "toy-mixture", "--sampler", "langevin", "--levels", 3, "--steps", 5, "-q"]
    result = basis("sample", "-n", 5, *quick, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert len(record["pictures"]) == 5
    assert all(Path(path).exists() for path in [record["sheet"], *record["pictures"]])
    basis("sample", "-n", 2, *quick, "-o", "again")
    assert Path("again/toy-mixture-0002.png").read_bytes() == Path("out/toy-mixture-0002.png").read_bytes()
    assert basis("sample", "-n", 5, *quick).exit_code == 2
    assert basis("sample", "-n", 0, *quick, "-o", "none").exit_code == 2


def test_samplers_say_what_they_are_for_and_clashes_are_listed(basis, plugin):
    source = """
        from basis_cli.api import SamplerSpec, hookimpl

        @hookimpl
        def basis_samplers():
            return [SamplerSpec(name, "mine", "mine:draw") for name in ("ep", "other")]
    """
    plugin("mine", source)
    rows = {row["name"]: row for row in json.loads(basis("samplers", "--json").stdout)}
    assert {"ep", "langevin", "average", "other", "mine/ep"} <= rows.keys()
    assert (rows["ep"]["evaluations"], rows["ep"]["calibrated"], rows["mmps"]["calibrated"]) == (2, False, True)
    assert rows["mine/ep"]["summary"] == "mine"
    assert "separates best" in basis("samplers").stdout
    assert "'ep' is taken" in basis("doctor").stdout


def test_priors_check_says_what_is_wrong(basis, plugin):
    result = basis("priors", "check", "toy-gaussian", "--json", "-n", 4)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["prior"], record["sound"], record["verdict"]) == ("toy-gaussian", True, "sound")
    assert record["separation_seconds"] > 0
    source = """
        from basis_cli.api import PriorSpec, hookimpl

        @hookimpl
        def basis_priors():
            return [PriorSpec("wrong", "a test", (1, 8, 8), load="wrong:Wrong")]

        class Wrong:
            shape, sigmas = (1, 8, 8), None

            def __init__(self, spec, weights, device):
                pass

            def at(self, sigma):
                return self

            def score(self, x):
                return x
    """
    plugin("wrong", source)
    result = basis("priors", "check", "wrong")
    assert result.exit_code == 1
    assert "knows the noise level" in result.stdout
    assert "--data" in result.stderr
    assert basis("priors", "check", "nobody").exit_code == 3

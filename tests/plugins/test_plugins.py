"""The loader, with real distributions: a module and a dist-info folder that ``importlib.metadata`` finds."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer

from basis_cli import api, plugins
from basis_cli.errors import BasisError, UnknownPriorError

GOOD = """
    from basis_cli.api import PriorSpec, hookimpl

    @hookimpl
    def basis_priors():
        return [PriorSpec({name!r}, "a summary", (1, 4, 4), "{module}:load")]

    def load(spec, weights, device):
        return f"loaded {{spec.name}}"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(entry, source)``: a distribution whose entry point ``entry`` names a module with that source."""
    monkeypatch.delenv("BASIS_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    count = 0

    def install(entry, source, **values):
        nonlocal count
        count += 1
        module, distribution = f"fake_{count}_{entry}".replace("-", "_"), f"fake-{count}-{entry}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source).format(module=module, **values))
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
        (info / "entry_points.txt").write_text(f"[basis]\n{entry} = {module}\n")
        importlib.invalidate_caches()
        plugins.plugins.cache_clear()
        return module

    yield install
    plugins.plugins.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def found(name):
    (plugin,) = [plugin for plugin in plugins.plugins() if plugin.name == name]
    return plugin


def built_ins_work():
    return [plugin.error for plugin in plugins.plugins()[:2]] == ["", ""] and plugins.prior_spec("toy-gaussian")


def test_built_ins_are_ordinary_entry_points_and_come_first(install):
    install("a-first-by-name", GOOD, name="extra")
    names = [plugin.name for plugin in plugins.plugins()]
    assert names[:2] == ["toy", "ncsn"]
    assert "a-first-by-name" in names[2:]
    assert {"toy-gaussian", "toy-mixture"} == found("toy").priors.keys()
    assert found("toy").module == "basis_toy"
    assert built_ins_work()


def test_a_plugin_is_found_by_name_and_loaded_when_asked(install):
    module = install("mine", GOOD, name="extra")
    plugin = found("mine")
    assert (plugin.module, plugin.version, plugin.error, plugin.clashes) == (module, "1.2.3", "", [])
    spec = plugins.prior_spec("extra")
    assert spec is plugins.prior_spec("mine/extra")
    assert plugins.resolve(spec.load)(spec, None, "cpu") == "loaded extra"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise RuntimeError('out of {{luck}}\\nsecond line')", "RuntimeError: out of {luck}"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("def broken(:", "SyntaxError: "),
        ("assert False", "AssertionError: "),
    ],
)
def test_a_plugin_that_fails_on_import_is_listed_and_harms_nobody(install, source, error):
    install("broken", source)
    install("mine", GOOD, name="extra")
    plugin = found("broken")
    assert plugin.error.startswith(error)
    assert "\n" not in plugin.error
    assert (plugin.priors, plugin.samplers) == ({}, {})
    assert built_ins_work()
    assert plugins.prior_spec("extra")


def test_an_entry_point_that_is_no_module_is_listed_and_harms_nobody(install, tmp_path):
    install("mine", GOOD, name="extra")
    info = tmp_path / "odd-1.dist-info"  # and without METADATA, as half-removed packages are
    info.mkdir()
    (info / "entry_points.txt").write_text("[basis]\nodd = no-module!\ntoy = !\n")
    importlib.invalidate_caches()
    assert found("odd").error
    assert found("odd").module == "no-module!"
    assert found("odd").version == ""
    assert built_ins_work()
    assert plugins.prior_spec("extra")


def test_ctrl_c_is_the_users_own(install):
    install("broken", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.plugins()


HOOK = """
    from basis_cli.api import PriorSpec, hookimpl

    @hookimpl
    def {hook}(): {body}
"""
SPEC = "return [PriorSpec({}, 'a summary', {}, 'module:load')]".format


@pytest.mark.parametrize(
    ("hook", "body", "error"),
    [
        ("basis_priors", "return 'toy-gaussian'", "TypeError: basis_priors must return a list of PriorSpec"),
        ("basis_priors", "return ['toy-gaussian']", "TypeError: basis_priors must return a list of PriorSpec"),
        ("basis_priors", "return [None]", "TypeError: basis_priors must return a list of PriorSpec"),
        ("basis_priors", "return", "TypeError: basis_priors returned None"),
        ("basis_samplers", "pass", "TypeError: basis_samplers returned None"),
        ("basis_priors", "return 7", "TypeError: basis_priors must return a list of PriorSpec, not 7"),
        ("basis_priors", "return [[]] * 1000", "TypeError: basis_priors must return a list of PriorSpec"),
        ("basis_priors", "raise ValueError('no weights today')", "ValueError: no weights today"),
        ("basis_priors", "import sys; sys.exit()", "SystemExit"),
        ("basis_priors", SPEC("'x'", (8, 8)), "ValueError: x: shape must be (channels, height, width), not (8, 8)"),
        ("basis_priors", SPEC("'x'", (1, 0, 8)), "ValueError: x: shape must be"),
        ("basis_priors", SPEC("'x'", (1, 8.0, 8)), "ValueError: x: shape must be"),
        ("basis_priors", SPEC("'x'", 8), "TypeError: "),
        ("basis_priors", SPEC("'a/b'", (1, 8, 8)), "ValueError: a prior's name must be a word"),
        ("basis_priors", SPEC("'a b'", (1, 8, 8)), "ValueError: a prior's name must be a word"),
        ("basis_priors", SPEC("''", (1, 8, 8)), "ValueError: a prior's name must be a word"),
        ("basis_priors", SPEC("5", (1, 8, 8)), "ValueError: a prior's name must be a word"),
        ("basis_samplers", "return ['fast']", "TypeError: basis_samplers must return a list"),
        ("basis_samplers", "return dict(fast=print)", "TypeError: basis_samplers must return a list"),
        ("basis_samplers", "return dict(fast='no_colon')", "TypeError: basis_samplers must return a list"),
        ("basis_prior", "return []", "PluginValidationError: unknown hook 'basis_prior'"),
    ],
)
def test_a_plugin_that_returns_rubbish_is_listed_and_harms_nobody(install, hook, body, error):
    install("broken", HOOK, hook=hook, body=body)
    plugin = found("broken")
    assert plugin.error.startswith(error)
    assert len(plugin.error) < 200
    assert (plugin.priors, plugin.samplers) == ({}, {})
    assert built_ins_work()


def test_a_hook_that_returns_nothing_offers_nothing(install):
    install("empty", HOOK, hook="basis_priors", body="return None")
    assert found("empty").priors == {}
    assert built_ins_work()


def test_one_bad_prior_withdraws_the_whole_plugin(install):
    install(
        "half",
        HOOK,
        hook="basis_priors",
        body="return [PriorSpec('good', '', (1, 4, 4), 'm:load'), PriorSpec('bad', '', (4,), 'm:load')]",
    )
    assert "bad: shape must be" in found("half").error
    with pytest.raises(UnknownPriorError):
        plugins.prior_spec("good")


def test_one_bad_hook_withdraws_the_whole_plugin(install):
    install(
        "half",
        HOOK + "    @hookimpl\n    def basis_samplers(): return 7\n",
        hook="basis_priors",
        body=SPEC("'good'", (1, 4, 4)),
    )
    assert found("half").error.startswith("TypeError: basis_samplers")
    with pytest.raises(UnknownPriorError):
        plugins.prior_spec("half/good")


def test_a_built_ins_name_keeps_its_meaning(install):
    install("a-thief", GOOD, name="toy-gaussian")
    ours = plugins.prior_spec("toy-gaussian")
    assert ours is plugins.prior_spec("toy/toy-gaussian")
    assert ours.load == "basis_toy.prior:load"
    assert plugins.prior_spec("a-thief/toy-gaussian").summary == "a summary"
    assert found("a-thief").clashes == ["toy-gaussian"]
    assert found("toy").clashes == []


def test_between_strangers_the_first_by_name_wins(install):
    install("b", GOOD, name="stones")
    install("a", GOOD, name="stones")
    assert plugins.prior_spec("stones") is plugins.prior_spec("a/stones")
    assert plugins.prior_spec("stones") is not plugins.prior_spec("b/stones")
    assert (found("a").clashes, found("b").clashes) == ([], ["stones"])


def test_of_two_plugins_with_one_name_the_second_is_refused(install):
    install("twin", GOOD, name="one")
    install("twin", GOOD, name="two")
    twins = [plugin for plugin in plugins.plugins() if plugin.name == "twin"]
    assert [bool(plugin.error) for plugin in twins] == [False, True]
    assert twins[1].error == "another plugin is called 'twin' and was loaded first"
    assert twins[1].module.startswith("fake_")
    known = [name for name in ("one", "two") if name in twins[0].priors]
    assert len(known) == 1
    assert plugins.prior_spec(f"twin/{known[0]}")


def test_a_stranger_called_like_a_built_in_does_not_take_its_place(install):
    install("toy", GOOD, name="zebra")
    toys = [plugin for plugin in plugins.plugins() if plugin.name == "toy"]
    assert [plugin.module for plugin in toys] == ["basis_toy", "fake_1_toy"]
    assert toys[1].error
    assert plugins.prior_spec("toy/toy-gaussian").load == "basis_toy.prior:load"


@pytest.mark.parametrize(
    ("selected", "names"),
    [
        ("", []),
        ("toy", ["toy"]),
        ("mine, toy", ["toy", "mine"]),
        ("mine", ["mine"]),
        ("nobody", []),
        (",", []),
    ],
)
def test_basis_plugins_selects_who_is_loaded(install, monkeypatch, selected, names):
    install("mine", GOOD, name="extra")
    install("bomb", "raise RuntimeError")
    monkeypatch.setenv("BASIS_PLUGINS", selected)
    assert [plugin.name for plugin in plugins.plugins()] == names


def test_plugins_that_are_not_selected_are_not_imported(install, monkeypatch):
    module = install("mine", GOOD, name="extra")
    monkeypatch.setenv("BASIS_PLUGINS", "toy")
    plugins.plugins()
    assert module not in sys.modules


def test_an_unknown_prior_names_the_closest(install):
    install("mine", GOOD, name="granite")
    with pytest.raises(UnknownPriorError) as caught:
        plugins.prior_spec("granit")
    error = caught.value
    assert error.message == "no prior is called 'granit'"
    assert "did you mean 'granite'?" in error.hint
    assert "toy-gaussian, toy-mixture" in error.hint
    assert "mine/granite" not in error.hint
    assert error.exit_code == 3
    with pytest.raises(UnknownPriorError) as caught:
        plugins.prior_spec("qqqqqq")
    assert "did you mean" not in caught.value.hint
    assert "granite" in caught.value.hint


def test_an_unknown_prior_without_any_plugin(install, monkeypatch):
    monkeypatch.setenv("BASIS_PLUGINS", "")
    plugins.plugins.cache_clear()
    with pytest.raises(UnknownPriorError, match="no prior is called 'toy-gaussian'"):
        plugins.prior_spec("toy-gaussian")


SAMPLERS = """
    from basis_cli.api import SamplerSpec, hookimpl

    @hookimpl
    def basis_samplers():
        return [SamplerSpec(name, "", "{module}:fast") for name in ("fast", "langevin")]

    def fast(): return "fast"
"""


def test_samplers_are_found_and_the_built_in_keeps_its_name(install):
    install("mine", SAMPLERS)
    assert plugins.sampler("fast")() == "fast"
    assert plugins.sampler("mine/langevin")() == "fast"
    assert plugins.sampler("langevin").__module__ == "basis_cli.samplers.algorithm1"
    with pytest.raises(UnknownPriorError, match="no sampler is called 'langevine'.*did you mean 'langevin'"):
        plugins.sampler("langevine")


@pytest.mark.parametrize("target", ["not_there:load", "basis_toy.prior:not_there", "fake_1_broken:load"])
def test_a_target_that_does_not_resolve_is_named(install, target):
    install("broken", "raise RuntimeError")
    with pytest.raises(BasisError, match=f"cannot load '{target}'") as caught:
        plugins.resolve(target)
    assert "basis plugins list" in caught.value.hint


COMMAND = """
    from basis_cli.api import commands, hookimpl

    @hookimpl
    def basis_commands(app):
        @{group}.command({name})
        def polish(): ...
        {after}
"""


@pytest.fixture
def app():
    """An application with the command ``separate`` and the group ``train``, in which there is ``ncsn``."""
    app, train = typer.Typer(), typer.Typer()
    app.command("separate")(lambda: None)
    train.command("ncsn")(lambda: None)
    app.add_typer(train, name="train")
    return app


def test_plugins_add_commands_and_one_that_fails_is_recorded_and_adds_none(install, app):
    install("a-broken", COMMAND, group="app", name="'half'", after="raise RuntimeError('late')")
    install("mine", COMMAND, group="app", name="", after="")
    install("trainable", COMMAND, group="commands.group(app, 'train')", name="'mine'", after="")
    install("z-lost", COMMAND, group="commands.group(app, 'trian')", name="", after="")
    plugins.add_commands(app)
    whole = typer.main.get_command(app)
    assert {"separate", "polish"} <= whole.commands.keys()
    assert whole.commands["train"].commands.keys() >= {"ncsn", "mine"}
    assert "half" not in whole.commands
    assert found("a-broken").error == "RuntimeError: late"
    assert (found("mine").error, found("trainable").error) == ("", "")
    assert found("z-lost").error == "LookupError: basis has no group of commands called 'trian'"


@pytest.mark.parametrize(
    ("group", "name", "refused"),
    [
        ("app", "'separate'", "basis separate"),
        ("app", "'train'", "basis train"),
        ("commands.group(app, 'train')", "'ncsn'", "basis train ncsn"),
    ],
)
def test_a_command_is_never_replaced(install, app, group, name, refused):
    install("thief", COMMAND, group=group, name=name, after="app.command('other')(polish)")
    before = typer.main.get_command(app)
    plugins.add_commands(app)
    after = typer.main.get_command(app)
    assert after.commands.keys() >= before.commands.keys() | {"other"}
    assert after.commands["separate"].callback.__name__ == before.commands["separate"].callback.__name__ == "<lambda>"
    assert after.commands["train"].commands["ncsn"].callback.__name__ == "<lambda>"
    assert found("thief").refused == [refused]
    assert found("thief").error == ""


def test_nor_is_a_whole_group_or_what_comes_before_every_command(install, app):
    source = """
        import typer
        from basis_cli.api import hookimpl

        @hookimpl
        def basis_commands(app):
            theirs = typer.Typer()
            theirs.command("polish")(lambda: None)
            theirs.command("separate")(lambda: None)
            app.add_typer(theirs, name="train")
            app.add_typer(theirs)
            app.callback()(lambda: None)
    """
    install("thief", source)
    plugins.add_commands(app)
    whole = typer.main.get_command(app)
    assert "polish" not in whole.commands
    assert "polish" not in whole.commands["train"].commands
    assert "ncsn" in whole.commands["train"].commands
    assert app.registered_callback is None
    assert found("thief").refused == ["basis", "basis train", "basis separate"]


def test_our_plugins_import_no_more_of_the_core_than_a_stranger_may():
    layers = {"basis_glow.gaussians", "basis_glow.layers"}  # what two of ours share
    for name, more in {"toy": set(), "ncsn": set(), "glow": set(), "cinn": layers}.items():
        for path in Path(importlib.import_module(f"basis_{name}").__file__).parent.glob("*.py"):
            modules = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            imported = {node.module for node in modules if (node.module or "").startswith("basis_") and not node.level}
            assert imported <= {"basis_cli.api"} | more, path


def test_the_core_imports_no_plugin():
    for path in Path(plugins.__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) basis_(?!cli)", path.read_text(), re.MULTILINE), path


def test_all_that_a_plugin_may_import_is_there():
    for name in [*api._MODULES, *api._HOMES]:
        assert getattr(api, name)
        assert name in api.__doc__
    with pytest.raises(AttributeError, match="no attribute 'everything'"):
        api.everything  # noqa: B018


def test_finding_plugins_does_not_import_torch():
    code = """
import sys
from basis_cli import api, plugins
assert {plugin.name for plugin in plugins.plugins()} >= {"toy", "ncsn"}
assert plugins.prior_spec("ncsn-mnist")
heavy = {"torch", "numpy", "scipy", "PIL", "safetensors"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

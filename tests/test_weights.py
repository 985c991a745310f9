"""Weights are found in the right place, never used unverified, and never left half downloaded."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pooch
import pytest
from typer.testing import CliRunner

from basis_cli import plugins, weights
from basis_cli.api import PriorSpec, WeightFile
from basis_cli.cli import app as whole  # noqa: F401, plugins add what can be converted
from basis_cli.cli.weights import app
from basis_cli.errors import UnknownPriorError, UsageError, WeightsError

SHIPPED = weights.SHIPPED  # the tests look elsewhere, but one looks here

GOOD = bytes(range(256)) * 20
SHA256 = hashlib.sha256(GOOD).hexdigest()


def write(folder: Path, data: bytes = GOOD, name: str = "w.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def write_manifest(folder: Path, sha256: str = SHA256, name: str = "w.safetensors") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entry = f'name = "{name}"\nsha256 = "{sha256}"\nbytes = {len(GOOD)}\nlicence = "MIT"\ncard = "w.md"\n'
    (folder / "manifest.toml").write_text(f"[[file]]\n{entry}")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """Empty stand-ins for every place that is looked in."""
    folders = {name: tmp_path / name for name in ("first", "second", "plugin", "shipped")}
    monkeypatch.setenv("BASIS_WEIGHTS", os.pathsep.join(str(folders[name]) for name in ("first", "second")))
    monkeypatch.setattr(weights, "SHIPPED", folders["shipped"])
    monkeypatch.setattr(weights.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    return folders | {"cache": tmp_path / "basis" / "weights"}


# --- where


def test_order_of_the_places(places):
    """Taking away the file in the first place uncovers the one in the second, and so on."""
    file = WeightFile("w.safetensors", SHA256, places["plugin"])
    paths = [write(places[name]) for name in ("first", "second", "plugin", "shipped", "cache")]
    for path in paths:
        assert weights.find(file) == path
        path.unlink()
    assert weights.locate(file) is None


def test_empty_environment_variable_is_not_the_current_folder(places, monkeypatch):
    monkeypatch.setenv("BASIS_WEIGHTS", "")
    monkeypatch.chdir(write(places["first"]).parent)
    assert weights.locate(WeightFile("w.safetensors")) is None


def test_a_folder_that_cannot_be_searched_is_passed_over(places, monkeypatch):
    monkeypatch.setenv("BASIS_WEIGHTS", "x" * 5000)
    path = write(places["shipped"])
    assert weights.find(WeightFile("w.safetensors", SHA256)) == path


def test_a_folder_of_that_name_is_not_the_file(places):
    (places["first"] / "w.safetensors").mkdir(parents=True)
    path = write(places["shipped"])
    assert weights.find(WeightFile("w.safetensors", SHA256)) == path


def test_given_file_is_the_users_own(places, tmp_path):
    own = write(tmp_path, b"trained by the user", "own.safetensors")
    write(places["shipped"])
    assert weights.find(WeightFile("w.safetensors", SHA256), own) == own


def test_given_file_must_exist(tmp_path):
    with pytest.raises(WeightsError, match=r"no file of weights at .*own\.safetensors \(check the path\)"):
        weights.find(WeightFile("w.safetensors"), tmp_path / "own.safetensors")


def test_missing():
    with pytest.raises(WeightsError, match=r"w\.safetensors is missing \(reinstall .*BASIS_WEIGHTS\)") as error:
        weights.find(WeightFile("w.safetensors", SHA256))
    assert error.value.exit_code == 4
    with pytest.raises(WeightsError, match="basis weights pull"):
        weights.find(WeightFile("w.safetensors", SHA256, url="https://example.org/w"))


# --- which hash


def test_hash_in_the_manifest_beside_the_file(places):
    path = write(places["plugin"])
    write_manifest(places["plugin"])
    write_manifest(places["shipped"], "0" * 64)  # says otherwise of another file of that name
    assert weights.find(WeightFile("w.safetensors", folder=places["plugin"])) == path


@pytest.mark.parametrize("place", ["first", "second", "cache", "shipped"])
def test_hash_in_the_shipped_manifest(places, place):
    path = write(places[place])
    write_manifest(places["shipped"])
    assert weights.find(WeightFile("w.safetensors")) == path
    write_manifest(places["shipped"], "0" * 64)
    with pytest.raises(WeightsError, match="000000000000"):
        weights.find(WeightFile("w.safetensors"))


@pytest.mark.parametrize("place", ["first", "cache"])
def test_hash_in_the_manifest_of_the_plugin(places, place):
    path = write(places[place])
    write_manifest(places["plugin"])
    assert weights.find(WeightFile("w.safetensors", folder=places["plugin"])) == path


def test_hash_of_the_spec_wins_over_any_manifest(places):
    path = write(places["first"])
    write_manifest(places["first"], "0" * 64)
    assert weights.find(WeightFile("w.safetensors", SHA256.upper())) == path


def test_without_a_stated_hash_nothing_is_used(places):
    path = write(places["first"])
    write_manifest(places["shipped"], name="another.safetensors")
    with pytest.raises(WeightsError) as error:
        weights.find(WeightFile("w.safetensors"))
    assert error.value.message == f"no SHA-256 is stated for {path}"
    assert "manifest.toml" in error.value.hint


# --- corrupted


def flip_a_byte(path: Path) -> str:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))  # as another moment, however coarse the clock
    return hashlib.sha256(data).hexdigest()


def test_one_flipped_byte_is_named_with_both_hashes(places):
    path = write(places["shipped"])
    file = WeightFile("w.safetensors", SHA256)
    weights.find(file)  # good before, in this very process
    actual = flip_a_byte(path)
    with pytest.raises(WeightsError) as error:
        weights.find(file)
    assert error.value.message == f"{path} is corrupted: its SHA-256 is {actual[:12]}..., not {SHA256[:12]}..."
    assert error.value.hint == "delete it, then reinstall the package that ships it"
    with pytest.raises(WeightsError, match="delete it, then `basis weights pull PRIOR`"):
        weights.find(WeightFile("w.safetensors", SHA256, url="https://example.org/w"))


def test_truncated_file_is_corrupted(places):
    write(places["first"], GOOD[:-1])
    with pytest.raises(WeightsError, match="corrupted"):
        weights.find(WeightFile("w.safetensors", SHA256))


def test_a_corrupted_file_does_not_fall_through_to_a_good_one(places):
    """Silently using another file than the one asked for would hide the damage."""
    write(places["first"], b"bad")
    write(places["shipped"])
    with pytest.raises(WeightsError, match="first"):
        weights.find(WeightFile("w.safetensors", SHA256))


def test_a_file_is_hashed_once(places, monkeypatch):
    write(places["first"])
    calls = []
    monkeypatch.setattr(weights, "sha256", lambda path: calls.append(path) or SHA256)
    for _ in range(3):
        weights.find(WeightFile("w.safetensors", SHA256))
    assert len(calls) == 1


def test_unreadable_file(places, monkeypatch):
    write(places["first"])

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(weights, "sha256", refuse)
    with pytest.raises(WeightsError, match=r"cannot read .*w\.safetensors: Permission denied"):
        weights.find(WeightFile("w.safetensors", SHA256))


def test_sha256(tmp_path):
    assert weights.sha256(write(tmp_path, b"")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    big = os.urandom((1 << 20) + 1)
    assert weights.sha256(write(tmp_path, big)) == hashlib.sha256(big).hexdigest()


# --- manifest


def test_manifest(places):
    assert weights.manifest(places["shipped"]) == {}
    write_manifest(places["shipped"])
    entry = weights.Entry("w.safetensors", SHA256, len(GOOD), "MIT", "w.md")
    assert weights.manifest(places["shipped"]) == {"w.safetensors": entry}


@pytest.mark.parametrize(
    "text",
    ["[[file]", "[[file]]\nname = 'w'\n", "[[file]]\nnam = 'w'\n", "file = 3\n", "file = ['w']\n", b"\xff\xfe"],
)
def test_unusable_manifest(tmp_path, text):
    (tmp_path / "manifest.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WeightsError, match=r"cannot use .*manifest\.toml: .*name, sha256, bytes, licence, card"):
        weights.manifest(tmp_path)


def test_the_real_manifest_tells_the_truth():
    """Each shipped file has the size and SHA-256 that the manifest states, and its card is there."""
    folder = SHIPPED
    assert (folder / "manifest.toml").is_file()
    entries = weights.manifest(folder)
    assert {path.name for path in folder.glob("*.safetensors")} == set(entries)
    for entry in entries.values():
        assert (folder / entry.name).stat().st_size == entry.bytes
        assert weights.sha256(folder / entry.name) == entry.sha256
        assert (folder / entry.card).is_file()
        assert entry.licence
    assert sum(entry.bytes for entry in entries.values()) < 115e6  # packed to four fifths: a wheel under 95 MB


# --- pull


@pytest.fixture
def address() -> Iterator[str]:
    """A server on this machine: ``/good``, ``/bad`` with other bytes, ``/half`` that hangs up in the middle."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"/good": GOOD, "/bad": GOOD[::-1], "/half": GOOD[:1000]}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(GOOD) if body else 0))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_pull(places, address):
    file = WeightFile("w.safetensors", SHA256, url=f"{address}/good")
    assert weights.pull(file) == places["cache"] / "w.safetensors"
    assert weights.find(file).read_bytes() == GOOD
    assert len(list(places["cache"].iterdir())) == 1


def test_pull_replaces_a_corrupted_file_and_keeps_a_good_one(places, address):
    write(places["cache"], b"bad")
    weights.pull(WeightFile("w.safetensors", SHA256, url=f"{address}/good"))
    assert (places["cache"] / "w.safetensors").read_bytes() == GOOD
    weights.pull(WeightFile("w.safetensors", SHA256, url=f"{address}/no-such"))  # not even asked for


def test_pull_takes_the_hash_of_the_plugins_manifest(places, address):
    file = WeightFile("w.safetensors", folder=places["plugin"], url=f"{address}/good")
    write_manifest(places["plugin"], "0" * 64)
    with pytest.raises(WeightsError, match="does not match"):
        weights.pull(file)
    write_manifest(places["plugin"])
    assert weights.pull(file).read_bytes() == GOOD


@pytest.mark.parametrize(("what", "says"), [("bad", "does not match"), ("half", ""), ("no-such", "404")])
def test_failed_pull_leaves_nothing(places, address, what, says):
    with pytest.raises(WeightsError, match=rf"cannot download {address}/{what}: .*{says}") as error:
        weights.pull(WeightFile("w.safetensors", SHA256, url=f"{address}/{what}"))
    assert error.value.hint
    assert list(places["cache"].iterdir()) == []


def test_interrupted_pull_leaves_nothing(places, monkeypatch):
    def interrupted(self, url, output_file, *args, **kwargs):
        Path(output_file).write_bytes(GOOD[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.pull(WeightFile("w.safetensors", SHA256, url="http://127.0.0.1/w"))
    assert list(places["cache"].iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/w", "gopher://example.org/w"])
def test_pull_from_nowhere(url):
    with pytest.raises(WeightsError, match=f"cannot download {url}"):
        weights.pull(WeightFile("w.safetensors", SHA256, url=url))


def test_pull_into_an_unusable_cache(places, address):
    places["cache"].parent.mkdir(parents=True)
    places["cache"].touch()
    with pytest.raises(WeightsError, match="cannot download"):
        weights.pull(WeightFile("w.safetensors", SHA256, url=f"{address}/good"))


def test_pull_without_address_or_hash():
    with pytest.raises(WeightsError, match=r"w\.safetensors has no download address"):
        weights.pull(WeightFile("w.safetensors", SHA256))
    with pytest.raises(WeightsError, match=r"no SHA-256 is stated for w\.safetensors"):
        weights.pull(WeightFile("w.safetensors", url="http://127.0.0.1:1/w"))


# --- in a checkout and in a wheel


def test_shipped_folder_is_found_in_both_layouts(tmp_path):
    """A wheel has the folder ``basis_cli/weights`` beside the module ``basis_cli/weights.py``."""
    package = Path(weights.__file__).parent
    for name in ("__init__.py", "api.py", "errors.py", "hookspecs.py", "plugins.py", "weights.py"):
        write(tmp_path / "basis_cli", (package / name).read_bytes(), name)
    script = "from basis_cli import weights; print(weights.SHIPPED)"

    def shipped() -> str:
        return subprocess.check_output([sys.executable, "-c", script], cwd=tmp_path, text=True).strip()

    assert shipped() == str(tmp_path / "weights")
    (tmp_path / "basis_cli" / "weights").mkdir()
    assert shipped() == str(tmp_path / "basis_cli" / "weights")


# --- the commands


def spec(name: str, **weight_file) -> PriorSpec:
    file = WeightFile(f"{name}.safetensors", **weight_file) if weight_file else None
    return PriorSpec(name, "", (1, 2, 2), "nowhere:load", weights=file, licence="MIT")


@pytest.fixture
def installed(monkeypatch) -> dict[str, plugins.Plugin]:
    """Plugins ``a`` and ``b`` in place of the installed ones; ``b`` has a name that ``a`` holds, and one is broken."""
    offered = {
        "a": {"one": spec("one", sha256=SHA256), "bare": spec("bare")},
        "b": {"one": spec("one", sha256=SHA256), "two": spec("two", sha256=SHA256, url="http://127.0.0.1:1/two")},
    }
    found = {name: plugins.Plugin(name, name, priors=priors) for name, priors in offered.items()}
    found["b"].clashes = ["one"]
    found["broken"] = plugins.Plugin("broken", "broken", error="ImportError: no")
    monkeypatch.setattr(plugins, "plugins", lambda: tuple(found.values()))
    monkeypatch.setattr("basis_cli.cli.weights.plugins", plugins.plugins)
    return found


def basis_weights(*arguments: str, raises: type[Exception] | None = None):
    result = CliRunner().invoke(app, list(arguments))
    if raises:
        assert isinstance(result.exception, raises), result.output
    elif result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_list_as_json(places, installed):
    path = write(places["shipped"], name="one.safetensors")
    write_manifest(places["shipped"], name="two.safetensors")
    one = {"name": "one", "file": "one.safetensors", "bytes": len(GOOD), "path": str(path), "licence": "MIT"}
    two = {"name": "two", "file": "two.safetensors", "bytes": len(GOOD), "path": None, "licence": "MIT"}
    features = {"name": "cifar-features", "file": weights.FEATURES.file, "bytes": None, "path": None, "licence": ""}
    assert json.loads(basis_weights("list", "--json").stdout) == [one, one | {"name": "b/one"}, two, features]


def test_list_as_table(places, installed):
    write(places["shipped"], name="one.safetensors")
    rows = basis_weights("list").stdout.splitlines()
    assert rows[0].split() == ["name", "file", "bytes", "where", "licence"]
    two = next(row for row in rows if row.strip().startswith("two"))
    assert "missing" in two
    assert "bare" not in " ".join(rows)
    assert f"{len(GOOD):,}" in " ".join(rows)


def test_list_survives_a_plugins_broken_manifest(places, installed):
    installed["a"].priors["one"] = spec("one", folder=places["plugin"])
    write(places["plugin"], b"[[", "manifest.toml")
    result = basis_weights("list", "--json")
    assert [row["name"] for row in json.loads(result.stdout)] == ["one", "b/one", "two", "cifar-features"]
    assert "manifest.toml" in result.stderr


def test_verify(places, installed):
    one = write(places["shipped"], name="one.safetensors")
    two = write(places["cache"], name="two.safetensors")
    features = write(places["shipped"], name=weights.FEATURES.file)
    write_manifest(places["shipped"], name=features.name)
    result = basis_weights("verify")
    assert result.exit_code == 0
    rows = [f"one\t{one}", f"b/one\t{one}", f"two\t{two}", f"cifar-features\t{features}"]
    assert result.stdout.splitlines() == [f"ok\t{row}" for row in rows]
    assert basis_weights("path", "cifar-features").stdout == f"{features}\n"
    one.unlink()
    actual = flip_a_byte(two)
    result = basis_weights("verify")
    assert result.exit_code == 4
    states = [line.split("\t")[:2] for line in result.stdout.splitlines()]
    assert states == [["missing", "one"], ["missing", "b/one"], ["corrupt", "two"], ["ok", "cifar-features"]]
    assert actual[:12] in result.stderr
    assert "pull" in result.stderr


def test_verify_only_the_named(places, installed):
    write(places["shipped"], name="one.safetensors")
    assert basis_weights("verify", "one").exit_code == 0
    assert basis_weights("verify", "one", "two").exit_code == 4
    basis_weights("verify", "on", raises=UnknownPriorError)
    result = basis_weights("verify", "bare", raises=UsageError)
    assert "bare has no weights" in str(result.exception)


def test_path(places, installed):
    path = write(places["shipped"], name="one.safetensors")
    assert basis_weights("path", "one").stdout == f"{path}\n"
    assert basis_weights("path", "b/one").stdout == f"{path}\n"
    flip_a_byte(path)
    assert basis_weights("path", "one", raises=WeightsError).stdout == ""
    basis_weights("path", "two", raises=WeightsError)
    basis_weights("path", "bare", raises=UsageError)


def test_pull_command(places, installed, address):
    installed["b"].priors["two"] = spec("two", sha256=SHA256, url=f"{address}/good")
    result = basis_weights("pull", "two")
    assert result.stdout == f"{places['cache'] / 'two.safetensors'}\n"
    assert basis_weights("verify", "two").exit_code == 0
    result = basis_weights("pull", "one", raises=WeightsError)
    assert "no download address" in str(result.exception)


def test_convert(tmp_path, monkeypatch):
    def fake(checkpoint: Path, out: Path, size: int | None) -> dict:
        out.write_bytes(checkpoint.read_bytes())
        return {"filters": 64, "size": size}

    module = ModuleType("basis_ncsn.convert")
    module.convert = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "basis_ncsn.convert", module)
    checkpoint, out = write(tmp_path, b"theirs", "checkpoint.pth"), tmp_path / "out.safetensors"
    result = basis_weights("convert", "ncsn", str(checkpoint), str(out), "--size", "64")
    assert result.stdout == f"{out}\n"
    assert result.stderr.splitlines() == ["filters: 64", "size: 64"]
    assert out.read_bytes() == b"theirs"
    out.write_bytes(b"mine")
    result = basis_weights("convert", "ncsn", str(checkpoint), str(out), raises=UsageError)
    assert "--overwrite" in str(result.exception)
    assert out.read_bytes() == b"mine"
    assert basis_weights("convert", "ncsn", str(checkpoint), str(out), "--overwrite").exit_code == 0
    assert out.read_bytes() == b"theirs"


def test_convert_usage(tmp_path):
    checkpoint = str(write(tmp_path))
    assert basis_weights("convert", "ncsn", str(tmp_path / "none.pth"), "out").exit_code == 2
    assert basis_weights("convert", "flow", checkpoint, "out").exit_code == 2
    assert basis_weights("convert", "ncsn", checkpoint, "out", "--sigma", "0.1").exit_code == 2


def test_convert_glow(tmp_path, monkeypatch):
    module = ModuleType("basis_glow.convert")
    module.convert = lambda checkpoint, out, size, sigma: {"size": size, "sigma": sigma}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "basis_glow.convert", module)
    checkpoint = str(write(tmp_path, b"theirs", "model.ckpt.index"))
    result = basis_weights("convert", "glow", checkpoint, "out.safetensors", "--sigma", "0.1")
    assert result.stderr.splitlines() == ["size: None", "sigma: 0.1"]


def test_listing_does_not_import_torch():
    script = (
        "import sys\n"
        "from basis_cli.cli.weights import app\n"
        "app(['list', '--json'], standalone_mode=False)\n"
        "sys.exit(', '.join({'torch', 'pooch'} & sys.modules.keys()) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "ncsn-mnist" in result.stdout

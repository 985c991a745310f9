"""``basis ui``: a server of its own process, asked over HTTP and through a browser."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

httpx = pytest.importorskip("httpx", reason="needs httpx, to ask the server")
pytest.importorskip("uvicorn", reason="needs basis-cli[ui]")

from basis_ui import form, jobs  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from basis_cli.api import InputError  # noqa: E402
from basis_cli.cli.app import app  # noqa: E402

TOY = {"prior": "toy-mixture", "preset": "fast"}


def png(size=(8, 8), seed=0) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(60, 200, size, dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


class Server:
    """A running ``basis ui``, and a client that knows its secret."""

    def __init__(self, folder: Path):
        command = [sys.executable, "-m", "basis_cli", "ui", "--no-open", "--port", "0", "--folder", str(folder)]
        self.folder = folder
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        self.base, _, self.token = self.address.partition("/?token=")
        self.client = httpx.Client(base_url=self.base, params={"token": self.token}, timeout=60, trust_env=False)

    def upload(self, data: bytes, name: str = "mix.png"):
        return self.client.post("/api/uploads", content=data, headers={"X-Name": name})

    def add(self, **filled) -> dict:
        answer = self.client.post("/api/jobs", json=TOY | filled)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def until(self, job: str, *states: str) -> dict:
        for _ in range(600):
            found = self.client.get(f"/api/jobs/{job}").json()
            if found["state"] in states:
                return found
            time.sleep(0.1)
        raise AssertionError(found)

    def end(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.communicate(timeout=20)
        self.client.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("ui") / "folder")
    yield started
    started.end()


def test_a_job_and_its_command_give_the_same_files(server, tmp_path, monkeypatch):
    upload = server.upload(png(), "../a b;$(x).png").json()
    assert upload["name"] == "a-b-x.png", "no folder, and nothing that a shell takes ill"
    job = server.add(upload=upload["id"], task="separate", samples=2, seed=3, options={"mixing": "max"})
    done = server.until(job["id"], "done", "failed")
    assert done["state"] == "done", done
    archive = zipfile.ZipFile(io.BytesIO(server.client.get(f"/api/jobs/{job['id']}/all.zip").content))
    archive.extractall(tmp_path)
    assert done["command"].startswith("basis separate a-b-x.png")
    monkeypatch.chdir(tmp_path)
    again = CliRunner().invoke(app, shlex.split(done["command"])[1:])
    assert again.exit_code == 0, again.stderr
    for name in ("a-b-x.s1.x1.png", "a-b-x.s2.x2.png", "a-b-x.x1.std.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    report = server.client.get(f"/api/jobs/{job['id']}/report.html")
    assert "sandbox" in report.headers["content-security-policy"]
    assert "All 2 samples" in report.text


def test_a_killed_server_loses_nothing(tmp_path):
    server = Server(tmp_path / "ui")
    upload = server.upload(png()).json()["id"]
    added = [server.add(upload=upload, task="separate", seed=seed) for seed in (1, 2)]
    server.until(added[0]["id"], "running")
    server.end(signal.SIGKILL)
    server = Server(tmp_path / "ui")
    try:
        again = subprocess.run(
            [sys.executable, "-m", "basis_cli", "ui", "--no-open", "--port", "0", "--folder", str(tmp_path / "ui")],
            capture_output=True, text=True,
        )  # fmt: skip
        assert again.returncode == 2
        assert "another `basis ui`" in again.stderr
        cancelled = server.client.post(f"/api/jobs/{added[1]['id']}/cancel").json()
        assert cancelled["state"] == "cancelled"
        done = server.until(added[0]["id"], "done", "failed")
        assert done["state"] == "done", done
        assert "restarted" in done["note"]
        assert server.client.delete(f"/api/jobs/{added[0]['id']}").status_code == 200
        assert [job["id"] for job in server.client.get("/api/jobs").json()] == [added[1]["id"]]
    finally:
        server.end()


def test_who_may_ask(server):
    ask = httpx.Client(base_url=server.base, trust_env=False)
    token = {"token": server.token}
    assert ask.get("/api/jobs").status_code == 403
    assert ask.get("/").status_code == 403
    assert ask.get("/", params={"token": "x" * 43}).status_code == 403
    assert ask.get("/api/jobs", params=token, headers={"Host": "evil.example"}).status_code == 421
    assert ask.post("/api/jobs", params=token, headers={"Origin": "http://evil.example"}).status_code == 403
    assert ask.get("/api/jobs", params=token, headers={"Origin": server.base}).status_code == 200
    opened = ask.get("/", params=token)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    page = ask.get("/")
    assert page.status_code == 200, "the cookie is enough"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for folder in (server.folder, server.folder / "jobs"):
        assert folder.stat().st_mode & 0o077 == 0, "nobody else on this machine"
    assert (server.folder / "token").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "not a picture"), (b"hello", "not a picture"), (png()[:60], "not a picture"), (b"x" * 33 * 2**20, "32 MB")],
    ids=["empty", "text", "cut", "large"],
)
def test_what_is_no_picture(server, data, words):
    answer = server.upload(data)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (1, "warning: dark\nerror: mix.png is 9 x 9 pixels (--fit crop)\n", "mix.png is 9 x 9 pixels (--fit crop)"),
        (1, "Traceback\nValueError: odd\n", "ValueError: odd"),
        (-9, "", "it was ended from outside: too little memory?"),
    ],
)  # fmt: skip
def test_a_job_that_failed_says_why(code, said, words):
    ended = jobs._ended(code, said)
    assert (ended["state"], ended["error"]) == ("failed", words)
    assert jobs._ended(0, "warning: mix.png is dark\nout/mix.x1.png\n") == {
        "state": "done",
        "warnings": ["mix.png is dark"],
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "rm"}, {"prior": "/etc/passwd"}, {"prior": "ncsn-mnist:/etc/passwd"}, {"options": {"mask": "/x"}},
        {"options": {"alpha": "../x"}}, {"options": {"k": "2; rm"}}, {"options": {"k": 1e9, "mixing": "no"}},
        {"samples": 10**6}, {"samples": True}, {"seed": -1}, {"seed": "1 --out /"}, {"preset": "worst"},
        {"options": [1]},
        {"options": {"weights": "x"}}, {"task": "inpaint", "region": "--out"}, {"task": ["separate"]},
    ],
    ids=str,
)  # fmt: skip
def test_only_what_is_offered_becomes_a_command(wrong):
    with pytest.raises(InputError):
        form.words({"task": "separate"} | wrong, None)


def test_a_form_as_words():
    said = form.words(
        {"task": "separate", "options": {"k": 3, "mixing": "mean", "invert": True}, "preset": "best"}, None
    )
    assert said == ["-k", "3", "--invert", "--best", "--uncertainty"]
    assert form.words({"task": "inpaint", "region": "left", "seed": 4}, None) == ["--mask", "left", "--seed", "4"]
    assert form.words({"task": "inpaint"}, "a.mask.png") == ["--mask", "a.mask.png"]


def test_two_hundred_odd_requests_at_once(server, tmp_path):
    """No crash, and no file outside of the folder."""
    outside = {path for path in server.folder.parent.rglob("*") if server.folder not in path.parents}
    random = np.random.default_rng(0)
    paths = ["/", "/static/../server.py", "/static/%2e%2e/server.py", "/api/jobs/../../token", "/api/jobs", "/%00"]
    paths += ["/api/uploads/..%2f..%2ftoken", "/examples/..%2f..%2fREADME.md", "/api/jobs/0000000000000000/job.json"]
    paths += [
        "/api/uploads",
        "/api/jobs/%00/x",
        "/static/app.js",
        "/" + "a" * 3000,
        "/api/jobs/0123456789abcdef/cancel",
    ]
    bodies = [b"", b"{", b"[]", b"null", b"\xff" * 1000, png(), b'{"task": "separate"}', b"0" * 200_000, b"[" * 90_000]
    headers = [{}, {"Host": "x"}, {"Origin": "null"}, {"X-Name": "..%2f..%2fx.png"}, {"X-Name": "%00" * 90}]
    headers += [{"Range": "bytes=9-1"}, {"Content-Type": "x" * 2000}, {"Cookie": "basis=1"}, {"X-Name": "a" * 5000}]
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"]

    def odd(i: int) -> int:
        path, body, header, method = (each[random.integers(len(each))] for each in (paths, bodies, headers, methods))
        try:
            return server.client.request(method, path, content=body, headers=header).status_code
        except httpx.HTTPError:
            return 0  # the server hung up

    with ThreadPoolExecutor(32) as pool:
        codes = list(pool.map(odd, range(200)))
    assert not [code for code in codes if code >= 500]
    assert sum(code == 0 for code in codes) < 20
    assert server.client.get("/api/jobs").status_code == 200
    assert {path for path in server.folder.parent.rglob("*") if server.folder not in path.parents} == outside
    known = {"jobs", "uploads", "token", "lock"}
    assert {path.name for path in server.folder.iterdir()} == known


def test_the_page_in_a_browser(server, browser, axe, tmp_path):
    """Upload, paint a mask, run, reload, download, cancel; on a phone in the dark as well."""
    (tmp_path / "face.png").write_bytes(png(seed=7))
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.address)
    page.locator("#file").set_input_files(tmp_path / "face.png")
    page.locator("#tasks label", has_text="inpaint").click()
    page.locator("#by").select_option("prior:toy-mixture")
    page.locator("#run").click()
    assert "paint over" in page.locator("#refused").inner_text()
    box = page.locator("#canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.8 * box["height"], steps=5)
    page.mouse.up()
    page.locator("#run").click()
    page.locator(".job .state", has_text="running").wait_for()
    page.reload()
    job = page.locator(".job").first
    job.locator(".stage").wait_for(timeout=60_000)
    assert shlex.split(job.locator(".copy code").inner_text()) == [
        *("basis", "inpaint", "face.png", "--mask", "face.mask.png", "--prior", "toy-mixture"),
    ]
    with page.expect_download() as found:
        job.locator(".tile a").first.click()
    answer = np.asarray(Image.open(found.value.path()))
    with page.expect_download() as found:
        job.get_by_role("link", name="Mask").click()
    mask = np.asarray(Image.open(found.value.path()).convert("L")) > 127
    assert 0 < mask.sum() < 40
    given = np.asarray(Image.open(tmp_path / "face.png"))
    assert (answer[~mask] == given[~mask]).all(), "what was not painted is kept"
    assert (answer[mask] != given[mask]).any()
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
    assert axe(page) == []
    page.emulate_media(color_scheme="light")
    assert axe(page) == []
    page.locator("#file").set_input_files(tmp_path / "face.png")
    page.locator("#tasks label", has_text="inpaint").click()
    page.locator("#region").select_option("left")
    page.locator("#run").click()
    page.get_by_role("button", name="Cancel face.png").click()
    page.locator(".job .state", has_text="cancelled").first.wait_for()
    (tmp_path / "no.png").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "no.png")
    page.locator("#refused", has_text="not a picture").wait_for()
    assert errors == []


def test_the_server_is_gone(tmp_path, browser):
    server = Server(tmp_path / "ui")
    page = browser.new_page()
    page.goto(server.address)
    page.locator("#examples button").first.wait_for()
    server.end(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
    page.locator("#trouble", has_text="nothing is lost").wait_for(timeout=10_000)


def test_the_command_is_light():
    code = "import sys, basis_ui.form as f; f.offered(); assert 'torch' not in sys.modules; print(len(f.offered()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) >= 5


def test_a_taken_port_is_said(server, tmp_path):
    port = server.base.rpartition(":")[2]
    command = [sys.executable, "-m", "basis_cli", "ui", "--no-open", "--port", port, "--folder", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "--port 0" in run.stderr

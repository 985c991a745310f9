"""``--report``, ``basis report`` and ``--preview``: what people look at."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOY = ["--prior", "toy-mixture", "--sampler", "langevin", "--levels", 2, "--steps", 2]


def embedded(page: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="records">(.*?)</script>', page, re.S)[1])


def pictures(page: str) -> dict[str, np.ndarray]:
    """Those with an id."""
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)"[^>]*? id="([^"]+)"', page)
    return {name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data, name in found}


def test_a_report_shows_everything_of_a_run(basis, picture):
    picture("a.png", seed=1)
    picture("b.png", seed=2)
    run = basis(
        "separate", picture(), *TOY, "--samples", 5, "--select", "mode", "--reference", "a.png", "--reference", "b.png",
        "--report", "--json",
    )  # fmt: skip
    assert run.exit_code == 0, run.stderr
    assert "out/report.html" in run.stderr
    page, record = Path("out/report.html").read_text(), json.loads(run.stdout)["results"][0]
    assert embedded(page) == [record]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page), "nothing is fetched"
    for text in ("All 5 samples", "truth 2", "Uncertainty", "residual", "PSNR", "basis separate", "chosen"):
        assert text in page
    shown = pictures(page)
    np.testing.assert_array_equal(shown["a1-1"], np.asarray(Image.open("out/mix.x1.png")))
    np.testing.assert_array_equal(shown["t1-2"], np.asarray(Image.open("b.png")))
    answer = [np.asarray(Image.open(f"out/mix.x{i}.png"), float) for i in (1, 2)]
    np.testing.assert_allclose(shown["r1"], sum(answer) / 2, atol=1)
    samples = {int(name.split("-")[1]) for name in shown if name.startswith("s1-")}
    assert samples == set(range(5))
    assert len(record["sample_answers"]) == 5


def test_samples_that_were_averaged_are_kept_for_the_report(basis, picture):
    run = basis("separate", picture(), *TOY, "--samples", 3, "--select", "best", "--report")
    assert run.exit_code == 0, run.stderr
    shown = pictures(Path("out/report.html").read_text())
    sheet = np.asarray(Image.open("out/mix.samples.png"))
    assert sheet.shape == (2 + 2 * 10, 2 + 3 * 10)
    for place in range(3):
        np.testing.assert_array_equal(shown[f"s1-{place}-2"], sheet[12:20, 2 + 10 * place : 10 + 10 * place])


def test_basis_report_of_a_folder_of_several_runs(basis, picture, tmp_path):
    for i in range(3):
        assert basis("separate", picture(f"<b>{i}.png", seed=i), *TOY, "-o", f"out/{i}").exit_code == 0
    run = basis("report", "out")
    assert run.exit_code == 0, run.stderr
    assert run.stdout.strip() == "out/report.html"
    page = Path("out/report.html").read_text()
    assert len(embedded(page)) == 3
    assert "<b>0" not in page, "names are text"
    assert "&lt;b&gt;0.png" in page


def test_what_is_gone_is_said(basis, picture):
    assert basis("separate", picture(), *TOY).exit_code == 0
    Path("mix.png").unlink()
    assert basis("report", "out/mix.json").exit_code == 0
    page = Path("out/report.html").read_text()
    assert "mix.png is not there any more" in page
    assert "a1-1" in pictures(page)
    Path("out/mix.x1.png").unlink()
    assert basis("report", "out", "--overwrite").exit_code == 0
    assert "The answers cannot be shown" in Path("out/report.html").read_text()


@pytest.mark.parametrize(
    ("task", "options"),
    [("inpaint", ["--mask", "left"]), ("upscale", ["--factor", 2]), ("separate", ["--alpha", "auto"]),
     ("separate", ["--mixing", "max"])],
)  # fmt: skip
def test_every_operator_is_applied_again(basis, picture, task, options):
    small = (4, 4) if task == "upscale" else (8, 8)
    run = basis(task, picture(size=small), "--prior", "toy-gaussian", "--levels", 3, *options, "--report", "--json")
    assert run.exit_code == 0, run.stderr
    page, record = Path("out/report.html").read_text(), json.loads(run.stdout)["results"][0]
    assert 'class="note"' not in page
    shown = pictures(page)
    rms = np.sqrt(np.mean((shown["r1"].astype(float) - shown["o1"]) ** 2)) if "o1" in shown else 0
    assert abs(rms - record["answers"][0]["residual_8bit_rms"]) < 1


def test_a_report_is_not_replaced_unasked(basis, picture):
    Path("out").mkdir()
    Path("out/report.html").write_text("mine")
    run = basis("separate", picture(), *TOY, "--report")
    assert (run.exit_code, Path("out/report.html").read_text()) == (2, "mine")
    assert not Path("out/mix.json").exists(), "refused before anything is computed"
    assert basis("report", "out").exit_code == 1
    Path("out/report.html").unlink()
    assert basis("separate", "mix.png", *TOY, "--report").exit_code == 0
    assert basis("report", "out").exit_code == 2
    again = basis("separate", "mix.png", picture("new.png", seed=5), *TOY, "--report", "--skip-existing")
    assert again.exit_code == 0, again.stderr
    assert len(embedded(Path("out/report.html").read_text())) == 2


def test_records_do_not_say_that_there_is_a_report(basis, picture):
    assert basis("separate", picture(), *TOY, "--report", "--preview").exit_code == 0
    assert "--report" not in json.loads(Path("out/mix.json").read_text())["options"]
    assert basis("separate", "mix.png", *TOY, "--skip-existing").stdout == ""


def test_many_inputs(basis, picture, request):
    """Five hundred in one file below 30 MB that a browser opens in under two seconds: a tenth of that."""
    assert basis("separate", picture(), *TOY).exit_code == 0
    record = json.loads(Path("out/mix.json").read_text())
    for i in range(50):
        for part in (1, 2):
            shutil.copy(f"out/mix.x{part}.png", f"out/n{i}.x{part}.png")
        record["answers"][0]["components"] = [f"out/n{i}.x1.png", f"out/n{i}.x2.png"]
        Path(f"out/n{i}.json").write_text(json.dumps(record | {"input": "mix.png"}))
    Path("out/mix.json").unlink()
    assert basis("report", "out").exit_code == 0
    file = Path("out/report.html")
    assert file.stat().st_size < 3e6
    page = request.getfixturevalue("browser").new_page()
    began = time.perf_counter()
    page.goto(file.absolute().as_uri())
    assert page.locator("#index li").count() == 50
    assert time.perf_counter() - began < 10


def test_pictures_are_made_smaller_to_fit():
    from basis_cli.cli.report.inline import Inline

    noise = np.random.default_rng(0).random((3, 512, 512), np.float32)
    for count in (10, 500, 5000):
        inline = Inline(count)
        shown = inline(noise)
        data = base64.b64decode(shown.uri.split(",")[1])
        assert len(data) <= inline.most
        assert (shown.width, shown.height) == (512, 512)
    flat = np.full((1, 64, 64), 0.5, np.float32)
    assert Inline(10)(flat).uri.startswith("data:image/png"), "small ones as they are"


def test_the_report_in_a_browser(basis, picture, browser, axe):
    names = [picture(f"m{i}.png", seed=i) for i in range(3)]
    assert basis("separate", *names, *TOY, "--samples", 3, "--report").exit_code == 0
    for scheme, width in (("light", 1200), ("dark", 390)):
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
        errors = []
        page.on("pageerror", lambda error, errors=errors: errors.append(error))
        page.goto(Path("out/report.html").absolute().as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
        slider = page.locator("#p1 .stage input")
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert "55%" in page.locator("#p1 .stage").get_attribute("style")
        page.locator("#p1 .put").nth(1).press("Enter")
        assert page.locator("#p1 .what").inner_text() == "component 2"
        page.locator("#sort").select_option("rms")
        shown = page.locator("article").evaluate_all("all => all.map(a => Number(a.dataset.rms))")
        assert shown == sorted(shown, reverse=True)
        page.locator("#p1 .made summary").click()
        assert "toy-mixture" in page.locator("#p1 .copy code").inner_text()
        page.locator("#p1 .made tr").nth(10).wait_for()  # written when it is opened
        page.locator("#find").fill("m1")
        assert page.locator("article:visible").count() == 1
        assert axe(page) == []
        assert errors == []
        page.close()


@pytest.mark.parametrize("colours", [True, False])
def test_a_picture_in_the_terminal(colours):
    from basis_cli.cli.preview import blocks

    picture = np.zeros((1, 4, 4), np.float32)
    picture[:, :2] = 1  # the upper half is white
    text = blocks(picture, 4, colours)
    upper, lower = text.plain.split("\n")
    if colours:
        assert upper == lower == "▀" * 4
        assert {str(span.style) for span in text.spans} == {
            "rgb(255,255,255) on rgb(255,255,255)",
            "rgb(0,0,0) on rgb(0,0,0)",
        }
    else:
        assert (upper, lower) == ("@@@@", "    ")


def test_preview_shows_input_and_answers(basis, picture):
    run = basis("separate", picture(), *TOY, "--samples", 2, "--preview")
    assert run.exit_code == 0, run.stderr
    for name in ("input", "s1 x1", "s2 x2"):
        assert name in run.stderr
    assert len(run.stdout.split()) == 4, "stdout carries the paths"

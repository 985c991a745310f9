"""Folders of pictures and LSUN's files as training data. The standard data sets are tested with the evaluation."""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from basis_cli import plugins
from basis_cli.data import images
from basis_cli.data.datasets import Squares, load_dataset
from basis_cli.errors import InputError, InputWarning, UsageError

SMALL = Squares(size=8)


def write(path, value=100, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255 - value)).save(path)
    return path


def encoded(value, size=(12, 10), kind="WEBP"):
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, kind, lossless=True)
    return file.getvalue()


def reds(data):
    return data.images[:, 0].mean((1, 2)).astype(int).tolist()


def test_every_20th_picture_of_a_folder_is_held_out(tmp_path):
    for i in range(41):
        write(tmp_path / f"{'ab'[i % 2]}" / f"{i:03d}.png", i)
    (tmp_path / "notes.txt").write_text("no picture")
    write(tmp_path / ".hidden.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = (load_dataset(str(tmp_path), split, squares=SMALL) for split in ("train", "test"))
    order = [*range(0, 41, 2), *range(1, 41, 2)]  # a/000, a/002, ..., b/001, ...
    assert reds(test) == order[::20]
    assert reds(train) == [i for i in order if i not in order[::20]]
    assert train.shape == (3, 8, 8)
    assert train.name == tmp_path.name


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_may_bring_its_own_splits(tmp_path, held_out):
    for i in range(3):
        write(tmp_path / "train" / "deep" / f"{i}.jpg", 10 * i)
    write(tmp_path / held_out / "x.PNG", 200)
    write(tmp_path / "elsewhere.png", 50)
    assert len(load_dataset(str(tmp_path), "train", squares=SMALL).images) == 3
    assert reds(load_dataset(str(tmp_path), "test", squares=SMALL)) == [200]


def test_what_cannot_be_used_is_counted_in_one_warning(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    write(tmp_path / "4-small.png", size=(40, 7))
    (tmp_path / "5-damaged.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (tmp_path / "6-empty.png").write_bytes(b"")
    with pytest.warns(InputWarning) as caught:
        assert reds(load_dataset(str(tmp_path), "train", squares=SMALL)) == [1, 2]
    assert [str(warning.message).partition(": ")[2] for warning in caught] == [
        "3 of 5 pictures are left out: damaged, or smaller than 8 pixels"
    ]
    with pytest.raises(InputError, match="5 files are damaged, or smaller than 100 pixels"):
        load_dataset(str(tmp_path), "train", squares=Squares(size=100))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="there are no picture files"):
        load_dataset(str(tmp_path / "none"), "train")


def test_a_limit_is_spread_over_the_folder(tmp_path):
    for i in range(40):
        write(tmp_path / f"{i:02d}.png", i)
    few = load_dataset(str(tmp_path), "train", squares=Squares(size=8, limit=4))
    assert reds(few) == [1, 10, 21, 30]  # 0 and 20 are held out
    assert len(load_dataset(str(tmp_path), "train", squares=Squares(size=8, limit=99)).images) == 38


@pytest.mark.parametrize("wrong", [{"size": 0}, {"limit": 0}, {"size": 64, "crop": 32}])
def test_numbers_out_of_range_are_usage_errors(wrong):
    with pytest.raises(UsageError):
        Squares(**wrong)


def test_squares_are_the_middle_shrunk_without_aliasing(tmp_path):
    values = np.zeros((40, 60), np.uint8)
    values[:, 10:50] = 100
    values[:, 10:50:2] = 200  # the finest stripes: 150 on average, gone at a quarter of the size
    path = tmp_path / "stripes.png"
    Image.fromarray(values).save(path)
    assert np.abs(images.square(path, 10)[:, :, 1:-1].astype(int) - 150).max() <= 5
    assert images.square(path, 10).shape == (3, 10, 10)
    assert images.square(path, 20, crop=20, channels=1).tolist() == [values[10:30, 20:40].tolist()]
    with pytest.raises(InputError, match="60 x 40 pixels, smaller than 41 x 41"):
        images.square(path, 10, crop=41)


def test_colour_becomes_gray_and_large_jpeg_files_are_shrunk_while_decoding(tmp_path):
    path = tmp_path / "x.jpg"
    Image.linear_gradient("L").resize((512, 512)).convert("RGB").save(path)
    small = images.square(path, 16, channels=1)
    expected = np.asarray(Image.linear_gradient("L").resize((16, 16), Image.Resampling.LANCZOS), int)
    assert small.shape == (1, 16, 16)
    assert np.abs(small[0] - expected).max() <= 3
    red = write(tmp_path / "red.png", 255)
    assert (images.square(red, 8, channels=1) == round(0.299 * 255)).all()


def test_lsun_is_read_from_its_own_files(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    for split, values in (("train", (1, 2, 3)), ("val", (50,))):
        with lmdb.open(str(tmp_path / f"church_outdoor_{split}_lmdb")) as database, database.begin(write=True) as all_:
            for value in values:
                all_.put(b"%d" % value, encoded(value))
            if split == "train":
                all_.put(b"9", b"damaged")
    with pytest.warns(InputWarning, match="church_outdoor_train_lmdb: 1 of 4"):
        assert reds(load_dataset("lsun:church_outdoor", "train", tmp_path, SMALL)) == [1, 2, 3]
    test = load_dataset("lsun:church_outdoor", "test", tmp_path, Squares(size=8, gray=True))
    assert (reds(test), test.shape, test.name) == ([50], (1, 8, 8), "lsun:church_outdoor")
    with pytest.raises(InputError, match="not in") as caught:
        load_dataset("lsun:bedroom", "train", tmp_path)
    assert "bedroom_train_lmdb" in caught.value.hint
    (tmp_path / "bridge_train_lmdb").mkdir()
    (tmp_path / "bridge_train_lmdb" / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(InputError, match="bridge_train_lmdb"):
        load_dataset("lsun:bridge", "train", tmp_path)


def test_lsun_without_lmdb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "bedroom_train_lmdb").mkdir()
    with pytest.raises(UsageError, match="lmdb") as caught:
        load_dataset("lsun:bedroom", "train", tmp_path)
    assert "basis-cli[lsun]" in caught.value.hint


def test_a_plugin_brings_a_data_set(tmp_path, monkeypatch):
    def load(folder, split):
        if folder.name != "squares":
            raise FileNotFoundError(folder)
        return np.full((3, 1, 4, 4), {"train": 1, "test": 2}[split], np.uint8), np.arange(3)

    monkeypatch.setattr(plugins, "datasets", lambda: {"squares": "squares:load"})
    monkeypatch.setattr(plugins, "resolve", lambda target: load)
    (tmp_path / "squares").mkdir()
    data = load_dataset("squares", "test", tmp_path)
    assert (data.name, data.images.max(), data.labels.tolist()) == ("squares", 2, [0, 1, 2])
    with pytest.raises(UsageError, match="known: .*squares"):
        load_dataset("circles", "test", tmp_path)

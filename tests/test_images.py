"""Pictures in every form a user may bring, and files written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import struct
import sys
import tempfile
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image, ImageCms, features

from basis_cli.data import decoding, images
from basis_cli.data.files import atomically
from basis_cli.errors import BasisError, InputError, InputWarning, UsageError

RNG = np.random.default_rng(0)
EIGHT_BIT = st_numpy.arrays(
    np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 255)
)


@pytest.fixture(autouse=True)
def _no_silent_warning():
    """Every warning that a test does not expect is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def save(folder: Path, image: Image.Image, name: str = "in.png", **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def png(samples: np.ndarray, color: int, *, size: tuple[int, int] | None = None, **chunks: bytes) -> bytes:
    """A PNG by hand, ``samples`` ``(h, w, c)`` of one or two bytes: Pillow writes no 16-bit colour and no bad headers.

    Each line uses the filter "Sub", so that a decoder must know the true size of a pixel.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w, c = samples.shape
    lines = np.frombuffer(samples.astype(samples.dtype.newbyteorder(">")).tobytes(), np.uint8).reshape(
        h, w * c * samples.itemsize
    )
    step = c * samples.itemsize
    lines = lines - np.pad(lines, ((0, 0), (step, 0)))[:, :-step]
    width, height = size or (w, h)
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(kind.encode(), data) for kind, data in chunks.items())]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\1" + line.tobytes() for line in lines))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def random_bytes(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# --- round trip


@given(EIGHT_BIT)
def test_what_is_written_is_read_back(picture):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.png"
        images.write_png(path, images.to_pillow(picture / np.float32(255)))
        back = images.read(path)
    assert back.dtype == np.float32
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, picture.astype(np.float32) / 255)


def test_written_png_has_no_metadata(tmp_path):
    images.write_png(tmp_path / "x.png", images.to_pillow(np.full((3, 4, 5), 0.5, np.float32)))
    data, kinds, at = (tmp_path / "x.png").read_bytes(), [], 8
    while at < len(data):
        kinds.append(data[at + 4 : at + 8])
        at += 12 + struct.unpack_from(">I", data, at)[0]
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def test_out_of_range_floats_are_clipped():
    assert np.asarray(images.to_pillow(np.array([[[-1.0, 0.5, 2.0]]]))).tolist() == [[0, 128, 255]]


# --- bit depths and modes


@pytest.mark.parametrize(("mode", "name"), [("I;16", "x.png"), ("I;16", "x.tif"), ("I;16B", "x.tif"), ("I", "x.tif")])
def test_16_bit_gray_keeps_its_precision(tmp_path, mode, name):
    values = np.array([[0, 1, 255, 256], [32768, 12345, 65534, 65535]])
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": np.int32}[mode]
    image = Image.frombytes(mode, (4, 2), values.astype(dtype).tobytes())
    np.testing.assert_array_equal(images.read(save(tmp_path, image, name)), (values / 65535).astype(np.float32)[None])


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_keeps_its_precision(tmp_path, color, channels):
    values = RNG.integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(png(values, color))
    expected = np.moveaxis(values, -1, 0).astype(np.float32) / 65535
    np.testing.assert_array_equal(images.read(tmp_path / "x.png"), expected)


@pytest.mark.parametrize(("color", "channels"), [(4, 2), (6, 4)])
def test_16_bit_png_with_alpha(tmp_path, color, channels):
    values = RNG.integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    (tmp_path / "x.png").write_bytes(png(values, color))
    with pytest.warns(InputWarning, match="transparent"):
        picture = images.read(tmp_path / "x.png")
    unit = np.moveaxis(values / 65535, -1, 0)
    np.testing.assert_allclose(picture, unit[:-1], atol=1e-7)
    np.testing.assert_allclose(images.load(tmp_path / "x.png").opacity, unit[-1:], atol=1e-7)
    values[..., -1] = 65535
    (tmp_path / "x.png").write_bytes(png(values, color))
    np.testing.assert_array_equal(images.read(tmp_path / "x.png"), np.moveaxis(values, -1, 0)[:-1].astype("f4") / 65535)


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_with_a_transparent_colour(tmp_path, color, channels):
    values = np.full((2, 2, channels), 0x1234, np.uint16)
    values[0, 0, -1] = 0x1235  # differs in the low byte only
    (tmp_path / "x.png").write_bytes(png(values, color, tRNS=b"\x12\x34" * channels))
    with pytest.warns(InputWarning, match="transparent"):
        picture = images.read(tmp_path / "x.png")
    np.testing.assert_array_equal(picture[:, 0, 0] * 65535, values[0, 0].astype(np.float32))
    assert picture.sum() == picture[:, 0, 0].sum()


def test_one_bit(tmp_path):
    dots = np.array([[True, False], [False, True]])
    assert images.read(save(tmp_path, Image.fromarray(dots))).tolist() == [[[1, 0], [0, 1]]]


def test_palette(tmp_path):
    colours = random_bytes(4, 3)
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 3]))
    image.putpalette(colours.tobytes())
    expected = colours.reshape(2, 2, 3).transpose(2, 0, 1).astype(np.float32) / 255
    np.testing.assert_array_equal(images.read(save(tmp_path, image)), expected)
    with pytest.warns(InputWarning, match="transparent"):
        picture = images.read(save(tmp_path, image, "clear.png", transparency=2))
    np.testing.assert_array_equal(picture, expected)
    assert images.load(tmp_path / "clear.png").opacity.tolist() == [[[1, 1], [0, 1]]]
    image.putdata([0, 1, 1, 3])  # the transparent entry is not used
    assert images.read(save(tmp_path, image, "unused.png", transparency=2)).shape == (3, 2, 2)


@pytest.mark.parametrize(("mode", "name"), [("LA", "x.png"), ("RGBA", "x.png"), ("RGBA", "x.webp"), ("RGBA", "x.tif")])
def test_alpha(tmp_path, mode, name):
    values = random_bytes(6, 5, len(mode))
    values[..., -1] = 255
    options = {"lossless": True} if name.endswith("webp") else {}
    expected = np.moveaxis(values, -1, 0)[:-1].astype(np.float32) / 255
    np.testing.assert_array_equal(images.read(save(tmp_path, Image.fromarray(values, mode), name, **options)), expected)
    values[2, 3, -1] = 51
    options |= {"exact": True} if name.endswith("webp") else {}
    path = save(tmp_path, Image.fromarray(values, mode), name, **options)
    with pytest.warns(InputWarning, match=rf"{name} is transparent in places"):
        np.testing.assert_allclose(images.read(path), expected, atol=1e-6)
    stored = images.load(path)
    np.testing.assert_array_equal(stored.pixels, expected)
    assert stored.opacity[0, 2, 3] == np.float32(0.2)
    assert (stored.opacity == 1).sum() == 29


def test_a_drawing_in_one_colour_on_nothing_is_seen_over_black(tmp_path):
    values = random_bytes(6, 5, 4)
    values[..., :3] = np.where(values[..., 3:] > 99, [200, 100, 50], values[..., :3])
    values[..., 3] *= values[..., 3] > 99
    with pytest.warns(InputWarning, match="drawing in one colour.*black shows through"):
        stored = images.load(save(tmp_path, Image.fromarray(values)))
    assert stored.opacity is None
    colour = np.array([200, 100, 50])[:, None, None] / 255
    np.testing.assert_allclose(stored.pixels, colour * (values[None, ..., 3] / 255), atol=1e-6)


@pytest.mark.parametrize(("fit", "expected"), [("crop", [[1.0, 0.0]]), ("pad", [[0, 0, 1, 1, 0, 0, 0, 0]])])
def test_opacity_is_fitted_as_the_picture_is(tmp_path, fit, expected):
    values = np.array([[9, 30, 70, 90]], np.uint8)
    values = np.stack([values, np.array([[255, 255, 0, 0]], np.uint8)], -1)
    stored = images.load(save(tmp_path, Image.fromarray(values)), (1, 1, len(expected[0])), fit)
    assert stored.opacity.tolist() == [expected]


# --- colour profiles and EXIF data

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XYZ = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))


def rgb_profile(swapped: bool) -> bytes:
    """sRGB, or the same with red and blue exchanged, by the tags of its primaries."""
    return SRGB.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ") if swapped else SRGB


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp", "x.jpg"])
def test_colours_are_converted_to_srgb(tmp_path, name):
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    options = {"lossless": True} if name == "x.webp" else {"quality": 100} if name == "x.jpg" else {}
    path = save(tmp_path, image, name, icc_profile=rgb_profile(swapped=True), **options)
    stored = images.load(path)
    np.testing.assert_allclose(stored.pixels[:, 4, 4] * 255, [50, 100, 200], atol=3)
    assert stored.tags.about == {"profile": "sRGB built-in", "converted_to": "sRGB"}
    assert stored.tags.profile == images.load(path).tags.profile  # no date of today
    as_coded = images.load(path, as_coded=True)
    np.testing.assert_allclose(as_coded.pixels[:, 4, 4] * 255, [200, 100, 50], atol=3)
    assert as_coded.tags.profile == rgb_profile(swapped=True)


def test_a_profile_of_srgb_changes_nothing_and_16_bits_stay(tmp_path):
    values = RNG.integers(0, 65536, (5, 7, 4)).astype(np.uint16)
    profile = {"iCCP": b"ICC Profile\0\0" + zlib.compress(rgb_profile(swapped=False))}
    (tmp_path / "x.png").write_bytes(png(values, 6, **profile))
    stored = images.load(tmp_path / "x.png")
    np.testing.assert_array_equal(stored.pixels, np.moveaxis(values[..., :3], -1, 0).astype("f4") / 65535)
    assert stored.tags.about == {"profile": "sRGB built-in"}


def test_16_bits_in_other_colours_are_read_at_8(tmp_path):
    values = RNG.integers(0, 65536, (5, 7, 4)).astype(np.uint16)
    profile = {"iCCP": b"ICC Profile\0\0" + zlib.compress(rgb_profile(swapped=True))}
    (tmp_path / "x.png").write_bytes(png(values, 6, **profile))
    with pytest.warns(InputWarning, match="read at 8 bits, because of its colour profile"):
        stored = images.load(tmp_path / "x.png")
    np.testing.assert_allclose(stored.pixels, np.moveaxis(values[..., 2::-1], -1, 0) / 65535, atol=2 / 255)
    np.testing.assert_allclose(stored.opacity[0], values[..., 3] / 65535, atol=0.5 / 255)


@pytest.mark.parametrize("profile", [b"no profile", XYZ.tobytes()])
def test_a_profile_that_cannot_be_used_is_warned_of(tmp_path, profile):
    path = save(tmp_path, Image.new("RGB", (2, 2), (200, 100, 50)), icc_profile=profile)
    with pytest.warns(InputWarning, match="colour profile that cannot be used, and is taken for sRGB"):
        np.testing.assert_allclose(images.read(path)[:, 0, 0] * 255, [200, 100, 50], atol=1e-4)


def test_a_gray_picture_with_a_profile_of_colours_stays_gray(tmp_path):
    path = save(tmp_path, Image.fromarray(random_bytes(6, 5)), icc_profile=rgb_profile(swapped=True))
    assert images.load(path).pixels.shape == (1, 6, 5)


def camera() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x0132], exif[0x010F] = 6, "2020:01:02 03:04:05", "Maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 99, 0x927C: b"private"}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif.tobytes()


@pytest.mark.parametrize("source", ["in.png", "in.jpg", "in.tif", "in.webp"])
@pytest.mark.parametrize("target", ["out.png", "deep.png", "out.jpg", "out.tif", "out.webp"])
def test_what_exif_says_of_the_scene_is_kept_and_what_it_says_of_the_file_is_not(tmp_path, source, target):
    if target == "deep.png":
        pytest.importorskip("png")
    options = {"lossless": True} if source == "in.webp" else {}
    stored = images.load(save(tmp_path, Image.fromarray(random_bytes(2, 3, 3)), source, exif=camera(), **options))
    assert stored.pixels.shape == (3, 3, 2)
    bits = 16 if target == "deep.png" else 8
    images.write_picture(tmp_path / target, stored.pixels, bits=bits, tags=stored.tags)
    with Image.open(tmp_path / target) as image:
        exif = image.getexif()
        assert (exif[0x0132], exif[0x010F]) == ("2020:01:02 03:04:05", "Maker")
        assert exif.get(0x0112, 1) == 1
        assert exif.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05"}
        assert exif.get_ifd(0x8825) == {1: "N", 2: (1.0, 2.0, 3.0)}
    assert images.read(tmp_path / target).shape == (3, 3, 2)  # turned once


# --- AVIF and HEIC


@pytest.mark.parametrize("name", ["x.avif", "x.heic"])
@pytest.mark.parametrize("channels", [3, 4])
def test_containers_of_video_codecs(tmp_path, name, channels):
    if name == "x.heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    values = np.full((16, 24, channels), 40, np.uint8)
    values[:8, :12] = 200
    stored = images.load(save(tmp_path, Image.fromarray(values), name, exif=camera(), quality=95))
    assert stored.pixels.shape == (3, 24, 16)  # turned by its orientation, once
    np.testing.assert_allclose(stored.pixels[:, 2, 2] * 255, 40, atol=4)
    np.testing.assert_allclose(stored.pixels[:, 2, -2] * 255, 200, atol=4)
    assert (stored.opacity is not None) == (channels == 4)
    exif = Image.Exif()
    exif.load(stored.tags.exif)
    assert exif[0x0132] == "2020:01:02 03:04:05"
    assert 0x0112 not in exif
    assert images.files_in(tmp_path, recursive=False) == [tmp_path / name]


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"


def test_heic_without_its_reader_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.jpg").write_bytes(HEIC)
    with pytest.raises(InputError, match=r"x\.jpg is HEIC \(pip install 'basis-cli\[heif\]'"):
        images.read(tmp_path / "x.jpg")


def test_avif_without_its_reader_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: None)
    (tmp_path / "x.avif").write_bytes(HEIC.replace(b"heic", b"avif"))
    with pytest.raises(InputError, match=r"x\.avif is AVIF, which this Pillow does not read \(pip install"):
        images.read(tmp_path / "x.avif")


@pytest.mark.parametrize("brand", [b"heic", b"avif"])
def test_damaged_containers(tmp_path, brand):
    pytest.importorskip("pillow_heif")
    (tmp_path / "x").write_bytes(HEIC.replace(b"heic", brand) + b"junk" * 20)
    with pytest.raises(InputError, match=r"x is (damaged|not a picture)"):
        images.read(tmp_path / "x")


# --- what is written is read back, in every format


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.TIFF", "x.webp"])
def test_formats_without_loss(tmp_path, name, channels, transparent):
    picture, opacity = (random_bytes(c, 5, 7).astype(np.float32) / 255 for c in (channels, 1))
    tags = images.Tags(profile=rgb_profile(swapped=False))
    images.write_picture(tmp_path / name, picture, opacity=opacity if transparent else None, tags=tags)
    stored = images.load(tmp_path / name)
    np.testing.assert_array_equal(stored.pixels, picture if name != "x.webp" else np.broadcast_to(picture, (3, 5, 7)))
    assert transparent == (stored.opacity is not None)
    if transparent:
        np.testing.assert_array_equal(stored.opacity, opacity)
    assert ("profile" in stored.tags.about) == (channels == 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_16_bits_are_written(tmp_path, channels, transparent):
    pytest.importorskip("png")
    values = RNG.integers(0, 65536, (channels + transparent, 5, 7)).astype(np.float32) / 65535
    picture, opacity = values[:channels], values[channels:] if transparent else None
    images.write_picture(tmp_path / "x.png", picture, bits=16, opacity=opacity)
    stored = images.load(tmp_path / "x.png")
    np.testing.assert_allclose(stored.pixels, picture, atol=1e-7)
    if transparent:
        np.testing.assert_allclose(stored.opacity, opacity, atol=1e-7)


def test_jpeg_has_no_opacity_and_formats_have_largest_sizes(tmp_path):
    with pytest.warns(InputWarning, match="JPEG has no opacity"):
        images.check_storable("in.png", ".jpg", (5, 7), opaque=False)
    with pytest.raises(InputError, match=r"in\.png: WEBP holds at most 16383 pixels a side, not 16384"):
        images.check_storable("in.png", ".webp", (5, 16384), opaque=True)
    images.check_storable("in.png", ".png", (5, 99999), opaque=False)
    images.write_picture(tmp_path / "x.jpg", np.full((3, 8, 8), 0.4, np.float32), opacity=np.ones((1, 8, 8), "f4"))
    np.testing.assert_allclose(images.read(tmp_path / "x.jpg"), 0.4, atol=0.01)


def test_gray_with_a_transparent_value(tmp_path):
    path = save(tmp_path, Image.frombytes("L", (2, 1), bytes([9, 10])), transparency=9)
    with pytest.warns(InputWarning, match="transparent"):
        assert images.read(path).tolist() == [[[0, pytest.approx(10 / 255)]]]


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (3, 2), (0, 255, 255, 0))
    for name in ("x.tif", "x.jpg"):
        np.testing.assert_allclose(images.read(save(tmp_path, image, name))[:, 0, 0], [1, 0, 0], atol=0.02)


def test_ycbcr(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 30, 90)).convert("YCbCr")
    picture = images.read(save(tmp_path, image, "x.tif", compression="tiff_lzw"))
    np.testing.assert_allclose(picture[:, 8, 8] * 255, [200, 30, 90], atol=4)


def test_float_tiff(tmp_path):
    values = RNG.random((3, 4), np.float32)
    np.testing.assert_array_equal(images.read(save(tmp_path, Image.fromarray(values), "x.tif")), values[None])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01, 1.01])
def test_float_tiff_out_of_range(tmp_path, bad):
    values = np.array([[0.5, bad]], np.float32)
    with pytest.raises(InputError, match=r"x\.tif holds values outside 0 to 1 \(scale it"):
        images.read(save(tmp_path, Image.fromarray(values), "x.tif"))


@pytest.mark.parametrize("bad", [-1, 65536])
def test_integer_tiff_out_of_range(tmp_path, bad):
    with pytest.raises(InputError, match="outside 0 to 65535"):
        images.read(save(tmp_path, Image.fromarray(np.array([[7, bad]], np.int32)), "x.tif"))


def test_pgm_of_16_bit(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n\x00\x01\xff\xfe")
    np.testing.assert_array_equal(images.read(tmp_path / "x.pgm"), np.array([[[1, 65534]]], np.float32) / 65535)


def test_colour_profile_does_not_matter(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save(tmp_path, Image.new("RGB", (2, 2), (1, 2, 3)), icc_profile=profile)
    np.testing.assert_allclose(images.read(path)[:, 0, 0] * 255, [1, 2, 3], rtol=1e-6)


# --- orientation and frames


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """The corner at the top left of the scene is white, wherever the camera stored it."""
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8], upright[:8, 24:] = 255, 128
    stored = {  # how a camera that writes this orientation has laid out the scene
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "x.jpg", quality=100, exif=exif)
    np.testing.assert_allclose(images.read(path)[0] * 255, upright, atol=4)


@pytest.mark.parametrize("color", [0, 2, 4])
def test_exif_orientation_of_16_bit_png(tmp_path, color):
    values = RNG.integers(0, 65536, (2, 3, {0: 1, 2: 3, 4: 2}[color])).astype(np.uint16)
    if color == 4:
        values[..., 1] = 65535
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "x.png").write_bytes(png(values, color, eXIf=exif.tobytes()[6:]))
    expected = np.rot90(values, -1).transpose(2, 0, 1)[: 3 if color == 2 else 1]
    np.testing.assert_array_equal(images.read(tmp_path / "x.png"), expected.astype(np.float32) / 65535)


def test_tiff_orientation_is_applied_once(tmp_path):
    path = save(tmp_path, Image.frombytes("L", (3, 2), bytes(range(6))), "x.tif", tiffinfo={0x0112: 6})
    assert (images.read(path)[0] * 255).round().tolist() == [[3, 0], [4, 1], [5, 2]]


def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    path = save(tmp_path, Image.new("L", (3, 2)), "x.jpg", exif=b"Exif\0\0garbage")
    assert images.read(path).shape == (1, 2, 3)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.tif", "x.webp"])
def test_first_of_several_frames(tmp_path, name):
    black, white = Image.new("L", (4, 3), 0), Image.new("L", (4, 3), 255)
    path = save(tmp_path, white, name, save_all=True, append_images=[black])
    with pytest.warns(InputWarning, match=rf"{name} holds several frames"):
        picture = images.read(path, (1, 3, 4))
    assert picture.min() == 1


def test_a_single_frame_of_such_a_format_is_silent(tmp_path):
    for name in ("x.gif", "x.tif", "x.webp"):
        assert images.read(save(tmp_path, Image.new("L", (4, 3)), name)).shape[1:] == (3, 4)


# --- channels


def test_natural_channels(tmp_path):
    assert images.read(save(tmp_path, Image.new("L", (1, 1), 255))).tolist() == [[[1]]]
    assert images.read(save(tmp_path, Image.new("RGB", (1, 1)))).shape == (3, 1, 1)


def test_gray_is_repeated(tmp_path):
    values = random_bytes(4, 5)
    picture = images.read(save(tmp_path, Image.fromarray(values)), (3, 4, 5))
    np.testing.assert_array_equal(picture, np.stack([values] * 3).astype(np.float32) / 255)


def test_gray_stored_as_colour_is_exact_and_silent(tmp_path):
    values = random_bytes(4, 5)
    picture = images.read(save(tmp_path, Image.fromarray(np.stack([values] * 3, -1))), (1, 4, 5))
    np.testing.assert_array_equal(picture, values.astype(np.float32)[None] / 255)


def test_colour_becomes_luma(tmp_path):
    image = Image.frombytes("RGB", (4, 1), bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]))
    with pytest.warns(InputWarning, match="in colour"):
        picture = images.read(save(tmp_path, image), (1, 1, 4))
    np.testing.assert_allclose(picture, [[[0.299, 0.587, 0.114, 1]]], atol=1e-6)
    assert picture.max() <= 1


def test_channels_that_no_picture_has(tmp_path):
    with pytest.raises(InputError, match="has 3 channels, the prior models 2"):
        images.read(save(tmp_path, Image.new("RGB", (4, 4))), (2, 4, 4))


# --- size


def test_wrong_size_names_the_way_out(tmp_path):
    path = save(tmp_path, Image.new("L", (40, 30)))
    with pytest.raises(InputError) as error:
        images.read(path, (1, 28, 28))
    assert error.value.message == f"{path} is 40 x 30 pixels, the prior models 28 x 28"
    assert error.value.hint.startswith("--tile, or --fit crop, resize or pad;")
    with pytest.raises(InputError) as error:
        images.read(path, (1, 28, 64))
    assert error.value.hint.startswith("--fit crop, resize or pad;")


def test_larger_pictures_may_keep_their_size(tmp_path):
    path = save(tmp_path, Image.new("L", (40, 30)))
    assert images.read(path, (1, 28, 40), "resize", larger=True).shape == (1, 30, 40)
    assert images.read(path, (1, 31, 40), "pad", larger=True).shape == (1, 31, 40)
    with pytest.raises(InputError, match="40 x 30"):
        images.read(path, (1, 31, 40), larger=True)


@pytest.mark.parametrize("fit", [None, "crop", "resize", "pad"])
def test_right_size_is_never_touched(tmp_path, fit):
    values = random_bytes(28, 28)
    picture = images.read(save(tmp_path, Image.fromarray(values)), (1, 28, 28), fit)
    np.testing.assert_array_equal(picture, values.astype(np.float32)[None] / 255)


def test_crop_takes_the_centre(tmp_path):
    values = random_bytes(9, 11, 3)
    picture = images.read(save(tmp_path, Image.fromarray(values)), (3, 4, 5), "crop")
    np.testing.assert_array_equal(picture, values[2:6, 3:8].transpose(2, 0, 1).astype(np.float32) / 255)


def test_pad_centres_on_black(tmp_path):
    values = random_bytes(3, 4)
    picture = images.read(save(tmp_path, Image.fromarray(values)), (1, 6, 4), "pad")
    np.testing.assert_array_equal(picture[0, 1:4], values.astype(np.float32) / 255)
    assert picture.shape == (1, 6, 4)
    assert not picture[0, [0, 4, 5]].any()


@pytest.mark.parametrize(("size", "fit", "says"), [((40, 20), "crop", "too small"), ((40, 20), "pad", "too large")])
def test_crop_and_pad_refuse_what_they_cannot_do(tmp_path, size, fit, says):
    with pytest.raises(InputError, match=f"is 40 x 20 pixels, {says} to {fit} .*--fit resize or"):
        images.read(save(tmp_path, Image.new("L", size)), (1, 28, 28), fit)


def test_resize_covers_and_crops(tmp_path):
    """A wide picture in three vertical bands: only the middle one is left."""
    values = np.zeros((20, 60), np.uint8)
    values[:, 20:40] = 255
    picture = images.read(save(tmp_path, Image.fromarray(values)), (1, 10, 10), "resize")
    assert picture.shape == (1, 10, 10)
    np.testing.assert_allclose(picture[0, :, 2:-2], 1, atol=0.01)
    assert picture.max() <= 1  # Lanczos overshoots beside an edge


def test_resize_is_antialiased_and_in_floats(tmp_path):
    values = np.indices((64, 64)).sum(0) % 2 * 65535
    path = save(tmp_path, Image.fromarray(values.astype(np.uint16)))
    picture = images.read(path, (1, 8, 8), "resize")
    np.testing.assert_allclose(picture, 0.5, atol=0.01)
    ramp = np.broadcast_to(np.linspace(5000, 5500, 50).astype(np.uint16), (50, 50))
    picture = images.read(save(tmp_path, Image.fromarray(ramp)), (1, 25, 25), "resize")
    assert len(np.unique(picture[0, 12].round(6))) == 25  # at 8 bits a sample only 2 or 3 values


def test_one_by_one_is_resized(tmp_path):
    picture = images.read(save(tmp_path, Image.new("RGB", (1, 1), (255, 0, 51))), (3, 28, 28), "resize")
    np.testing.assert_allclose(picture, np.broadcast_to(np.reshape([1, 0, 0.2], (3, 1, 1)), (3, 28, 28)), atol=1e-6)


@given(EIGHT_BIT, st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_resize_always_fits(picture, size):
    with tempfile.TemporaryDirectory() as folder:
        images.write_png(Path(folder) / "x.png", images.to_pillow(picture / np.float32(255)))
        fitted = images.read(Path(folder) / "x.png", (3, *size), "resize")
    assert fitted.shape == (3, *size)
    assert fitted.min() >= 0
    assert fitted.max() <= 1


def test_unknown_fit(tmp_path):
    with pytest.raises(UsageError, match=r"'stretch'.*crop, resize, pad"):
        images.read(tmp_path / "x.png", (1, 2, 2), "stretch")


# --- what is not a picture


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"no-such\.png does not exist"):
        images.read(tmp_path / "no-such.png")


def test_folder(tmp_path):
    with pytest.raises(InputError, match="is a folder, not a picture"):
        images.read(tmp_path)


def test_path_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot read .*Not a directory"):
        images.read(tmp_path / "file" / "x.png")


def test_name_too_long(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*: File name too long"):
        images.read(tmp_path / ("x" * 5000))


def test_permission_denied(tmp_path, monkeypatch):
    path = save(tmp_path, Image.new("L", (2, 2)))

    def refuse(path, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(decoding, "open", refuse, raising=False)
    with pytest.raises(InputError, match=r"cannot read .*in\.png: Permission denied \(check"):
        images.read(path)


def test_empty(tmp_path):
    (tmp_path / "x.png").touch()
    with pytest.raises(InputError, match=r"x\.png is empty"):
        images.read(tmp_path / "x.png")


@pytest.mark.parametrize(
    "data", [b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_no_picture(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.png is (not a picture|damaged)"):
        images.read(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
def test_zero_size(tmp_path, size):
    (tmp_path / "x.png").write_bytes(png(np.zeros((0, 0, 1), np.uint8), 0, size=size))
    with pytest.raises(InputError, match="not a picture"):
        images.read(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(30_000, 30_000), (12_000, 12_000), (8_001, 8_000)])
def test_huge_header_is_refused_before_decoding(tmp_path, size):
    """30,000 is Pillow's error, 12,000 its warning, 8,001 below both."""
    (tmp_path / "x.png").write_bytes(png(np.zeros((1, 1, 1), np.uint8), 0, size=size))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"x\.png has more than 64 megapixels \(crop or shrink it first\)"):
        images.read(tmp_path / "x.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.gif", "x.bmp", "x.webp", "x.ppm"])
@pytest.mark.parametrize("options", [{}, {"progressive": True, "compression": "tiff_lzw", "lossless": True}])
def test_truncated_is_never_loaded_in_part(tmp_path, name, options):
    path = save(tmp_path, Image.fromarray(random_bytes(20, 20, 3)), name, **options)
    data, whole = path.read_bytes(), images.read(path)
    refusals = []
    for length in {0, 1, 9, 30, *range(40, len(data), 41), len(data) - 1}:
        path.write_bytes(data[:length])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own, of odd TIFF tags
                picture = images.read(path)
        except InputError as refusal:
            refusals.append(refusal)
        else:  # only padding or a closing mark was cut off
            np.testing.assert_array_equal(picture, whole)
    assert len(refusals) > 5
    assert all(str(path) in refusal.message and refusal.hint for refusal in refusals)
    assert not any("\n" in str(refusal) for refusal in refusals)


def test_a_png_whose_checksums_are_wrong_is_damaged(tmp_path):
    """Pillow alone reads it as if it were whole."""
    path = tmp_path / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 4, (28, 28), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2 - 12) + whole[-12:])
    Image.open(path).load()
    with pytest.raises(InputError, match=r"in\.png is damaged.*checksum"):
        images.read(path)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_white_level(tmp_path, ending):
    """12-bit values in 16 bits."""
    path, values = tmp_path / f"in.{ending}", np.array([[0, 1023, 4095, 300]], np.uint16)
    Image.fromarray(values).save(path)
    with pytest.warns(InputWarning, match="--white-level 4095"):
        dark = images.read(path)
    assert np.allclose(dark, values / 65535)
    assert np.allclose(images.read(path, white_level=4095), values / 4095)
    with pytest.warns(InputWarning, match="above the white level"):
        cut = images.read(path, white_level=1023)
    assert np.allclose(cut, [[[0, 1, 1, 300 / 1023]]])
    with pytest.raises(UsageError, match="white level"):
        images.read(path, white_level=0)


def test_white_level_leaves_opacity_alone(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(np.array([[[0, 50, 100, 255], [100, 50, 0, 51]]], np.uint8)).save(path)
    stored = images.load(path, white_level=100)
    assert np.allclose(stored.pixels[:, 0], [[0, 1], [0.5, 0.5], [1, 0]])
    assert np.allclose(stored.opacity, [[[1, 0.2]]])


def test_floats_of_any_range_have_a_white_level(tmp_path):
    path = tmp_path / "in.tif"
    Image.fromarray(np.array([[0, 2.5, 5]], np.float32)).save(path)
    with pytest.raises(InputError, match="outside 0 to 1"):
        images.read(path)
    assert np.allclose(images.read(path, white_level=5), [[[0, 0.5, 1]]])
    Image.fromarray(np.array([[0, -2.5, 5]], np.float32)).save(path)
    with pytest.raises(InputError, match="below 0"):
        images.read(path, white_level=5)


def test_truncated_png_is_called_damaged(tmp_path):
    path = save(tmp_path, Image.fromarray(random_bytes(20, 20)))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"in\.png is damaged.*(?i:truncated)"):
        images.read(path)


@given(st.sampled_from(["png", "jpeg", "tiff", "gif", "bmp", "webp", "ppm"]), st.data())
def test_damaged_bytes_give_a_picture_or_an_input_error(kind, data):
    stream = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(stream, kind)
    damaged = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (Path(folder) / "x").write_bytes(damaged)
        try:
            picture = images.read(Path(folder) / "x")
        except InputError:
            return
    assert picture.dtype == np.float32
    assert picture.shape[0] in (1, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1


# --- standard input and pipes


def test_standard_input(monkeypatch):
    stream = io.BytesIO()
    Image.new("L", (3, 2), 255).save(stream, "PNG")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stream.getvalue())))
    assert images.read("-").tolist() == [[[1, 1, 1], [1, 1, 1]]]


def test_empty_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    with pytest.raises(InputError, match="standard input is empty"):
        images.read("-")


def test_wrong_size_on_standard_input(monkeypatch):
    stream = io.BytesIO()
    Image.new("L", (3, 2)).save(stream, "PNG")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stream.getvalue())))
    with pytest.raises(InputError, match="standard input is 3 x 2 pixels"):
        images.read(Path("-"), (1, 28, 28))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe(tmp_path):
    values = RNG.integers(0, 65536, (2, 3, 3)).astype(np.uint16)  # 16-bit colour is decoded twice
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(png(values, 2),))
    writer.start()
    np.testing.assert_array_equal(images.read(tmp_path / "pipe"), np.moveaxis(values, -1, 0).astype("f4") / 65535)
    writer.join()


# --- writing


def disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", [images.write_png, images.write_text])
def test_disk_full(tmp_path, monkeypatch, write):
    monkeypatch.setattr(Image.Image, "save", disk_full)
    monkeypatch.setattr(Path, "write_text", disk_full)
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(BasisError) as error:
        write(tmp_path / "x", Image.new("L", (2, 2)) if write is images.write_png else "text")
    assert error.value.message == f"cannot write {tmp_path / 'x'}: No space left on device"
    assert error.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


def test_write_text(tmp_path):
    images.write_text(tmp_path / "x.json", "Größe = 1\n")
    assert (tmp_path / "x.json").read_bytes() == "Größe = 1\n".encode()
    assert len(list(tmp_path.iterdir())) == 1


def test_write_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BasisError, match=r"cannot write .*x\.txt: Not a directory"):
        images.write_text(tmp_path / "file" / "x.txt", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("before")

    def write_half():
        with atomically(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_out_folder_is_made_with_its_parents(tmp_path):
    assert images.out_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert images.out_folder(tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("below", ["", "out"])
def test_out_folder_at_or_below_a_file(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(BasisError, match=r"file.* cannot be the output folder: .* \(choose another\)"):
        images.out_folder(tmp_path / "file" / below)


def test_out_folder_not_writable(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(BasisError, match="cannot be the output folder: Permission denied"):
        images.out_folder(tmp_path)


def test_sheet_lays_pictures_out_row_by_row(tmp_path):
    values = np.linspace(0, 1, 3, dtype=np.float32)
    images.write_sheet(tmp_path / "sheet.png", np.broadcast_to(values[:, None, None, None], (3, 1, 4, 5)))
    sheet = images.read(tmp_path / "sheet.png")[0]
    assert sheet.shape == (2 * 6 + 2, 2 * 7 + 2)
    np.testing.assert_allclose([sheet[2, 2], sheet[2, 9], sheet[8, 2]], values, atol=0.002)
    assert sheet[8, 9] == 1  # an empty place is white, as the margin


def test_twelve_bits_in_sixteen_are_warned_of(tmp_path):
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "twelve.png")
    with pytest.warns(InputWarning, match="a sixteenth of its 16 bits"):
        images.read(tmp_path / "twelve.png")
    Image.fromarray(values * 16).save(tmp_path / "sixteen.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images.read(tmp_path / "sixteen.png")

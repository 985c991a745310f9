import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from basis_cli.data import images
from basis_cli.data.images import LUMA
from basis_cli.errors import UsageError
from basis_cli.operators import (
    Constraint,
    Downsample,
    Gray,
    Jpeg,
    LinearOperator,
    Mask,
    Mixture,
    Unobserved,
    consistent,
    linearized,
    standard_tables,
)

coefficient = st.floats(0.01, 10) | st.floats(-10, -0.01)
alphas = st.lists(coefficient, min_size=1, max_size=5)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))  # n, c, h, w
seeds = st.integers(0, 2**32)


def draw(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


@given(alphas, shapes, seeds)
def test_mixture_is_the_weighted_sum(alpha, shape, seed):
    (x,) = draw(seed, (len(alpha), *shape))
    expected = sum(a * xi for a, xi in zip(alpha, x, strict=True))
    torch.testing.assert_close(Mixture(alpha)(x), expected)


@given(alphas, shapes, seeds)
def test_adjoint(alpha, shape, seed):
    operator = Mixture(alpha)
    x, y = draw(seed, (len(alpha), *shape), shape)
    assert operator.adjoint(y).shape == x.shape
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


@given(alphas, shapes, seeds)
def test_pinv_is_the_moore_penrose_inverse(alpha, shape, seed):
    operator = Mixture(alpha)
    x, x2, y, y2 = draw(seed, *[(len(alpha), *shape)] * 2, *[shape] * 2)
    forth, back = operator, operator.pinv
    torch.testing.assert_close(forth(back(forth(x))), forth(x))
    torch.testing.assert_close(back(forth(back(y))), back(y))
    torch.testing.assert_close((forth(back(y)) * y2).sum(), (y * forth(back(y2))).sum())
    torch.testing.assert_close((back(forth(x)) * x2).sum(), (x * back(forth(x2))).sum())


@given(alphas, shapes, seeds)
def test_pinv_explains_y_with_the_smallest_pictures(alpha, shape, seed):
    operator = Mixture(alpha)
    x, y = draw(seed, (len(alpha), *shape), shape)
    smallest = operator.pinv(y)
    torch.testing.assert_close(operator(smallest), y)
    other = smallest + x - operator.pinv(operator(x))  # any other solution of A x = y
    torch.testing.assert_close(operator(other), y)
    assert other.norm() >= smallest.norm() * (1 - 1e-9)


@given(alphas, shapes, seeds)
def test_gram_is_what_each_picture_alone_makes_of_its_adjoint(alpha, shape, seed):
    operator = Mixture(alpha)
    (y,) = draw(seed, shape)
    for i, gram in enumerate(operator.gram):
        alone = torch.zeros(len(alpha), *shape, dtype=y.dtype)
        alone[i] = operator.adjoint(y)[i]
        torch.testing.assert_close(operator(alone), gram * y)


@given(alphas, seeds)
def test_scale_is_what_noise_in_the_pictures_becomes_relative_to_a_sum_of_them(alpha, seed):
    (z,) = draw(seed, (len(alpha), 4000, 1, 1, 1))
    relative = Mixture(alpha)(z).std() / Mixture([1] * len(alpha))(z.roll(1, 1)).std()
    assert relative == pytest.approx(Mixture(alpha).scale, rel=0.1)


@pytest.mark.parametrize(("alpha", "scale"), [([1, 1, 1], 1), ([0.5, 0.5], 0.5), ([3, -4], math.sqrt(12.5))])
def test_scale(alpha, scale):
    assert Mixture(alpha).scale == pytest.approx(scale)
    assert Mixture(alpha).k == len(alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mixture_keeps_the_type(dtype):
    operator, x = Mixture([0.5, 0.5]), torch.ones(2, 3, 1, 2, 2, dtype=dtype)
    y = operator(x)
    assert {y.dtype, operator.adjoint(y).dtype, operator.pinv(y).dtype} == {dtype}
    assert torch.equal(y, torch.ones(3, 1, 2, 2, dtype=dtype))


@pytest.mark.parametrize("alpha", [[], [1, 0], [math.nan], [1, math.inf], [-math.inf, 1]])
def test_useless_coefficients_are_refused(alpha):
    with pytest.raises(UsageError, match="mixing coefficients must be finite and not zero") as caught:
        Mixture(alpha)
    assert str(alpha) in caught.value.message
    assert caught.value.exit_code == 2


def test_unobserved_has_no_values_and_pulls_nowhere():
    operator = Unobserved((3, 2, 4))
    x = torch.ones(1, 5, 3, 2, 4, dtype=torch.float64)
    y = operator(x)
    assert y.shape == (5, 0)
    for back in (operator.adjoint(y), operator.pinv(y)):
        assert back.shape == x.shape
        assert back.dtype == x.dtype
        assert not back.any()
    assert (operator.k, operator.scale) == (1, 1)


LINEAR = {
    "gray": (Gray(), 3),
    "luma": (Gray(LUMA.tolist()), 3),
    "right half": (Mask(torch.arange(8).expand(8, 8) < 4), 3),
    "one channel": (Mask(torch.tensor([1, 0, 1]).view(3, 1, 1).expand(3, 8, 8)), 3),
    "box 2": (Downsample(2, (8, 8)), 1),
    "box 4": (Downsample(4, (8, 8)), 3),
    "bicubic 2": (Downsample(2, (8, 8), "bicubic"), 3),
    "bicubic 4": (Downsample(4, (8, 8), "bicubic"), 1),
}


@pytest.fixture(params=LINEAR)
def linear(request):
    """An operator for one picture, and two random pictures ``(1, 2, c, 8, 8)`` for it."""
    operator, channels = LINEAR[request.param]
    return operator, *draw(0, (1, 2, channels, 8, 8), (1, 2, channels, 8, 8))


def test_linear_operators_say_so(linear):
    assert isinstance(linear[0], LinearOperator)
    assert isinstance(linear[0], Constraint)
    assert linear[0].k == 1


def test_linear_operators_have_their_adjoint(linear):
    operator, x, other = linear
    y = operator(other)
    assert operator.adjoint(y).shape == x.shape
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


def test_linear_operators_have_their_pseudo_inverse(linear):
    operator, x, other = linear
    y = operator(x)
    torch.testing.assert_close(operator(operator.pinv(y)), y)
    torch.testing.assert_close(operator.pinv(operator(operator.pinv(y))), operator.pinv(y))
    back = operator.pinv(operator(other))  # A^+ A is symmetric: an orthogonal projection
    torch.testing.assert_close((operator.pinv(y) * other).sum(), (x * back).sum())


def test_gram_is_a_a_transposed_where_it_is_a_number(linear):
    operator, x, _ = linear
    y = operator(x)
    if operator.gram is not None:
        torch.testing.assert_close(operator(operator.adjoint(y)), operator.gram[0] * y)
    else:
        assert not torch.allclose(operator(operator.adjoint(y)), y * operator(operator.adjoint(y)).norm() / y.norm())


def test_projection_is_the_nearest_solution(linear):
    operator, x, other = linear
    y = operator(other)
    nearest = operator.project(x, y)
    torch.testing.assert_close(operator(nearest), y)
    assert (nearest - x).norm() <= (other - x).norm()
    torch.testing.assert_close(operator.project(nearest, y), nearest)


def test_scale_is_the_spread_of_measured_noise(linear):
    operator, x, _ = linear
    (z,) = draw(1, (1, 2000, *x.shape[2:]))
    seen = operator(z)
    assert seen[seen != 0].std() == pytest.approx(operator.scale, rel=0.05)


def test_gray_is_the_mean_of_the_channels_by_default():
    (x,) = draw(0, (1, 2, 3, 4, 4))
    torch.testing.assert_close(Gray()(x), x[0].mean(1, keepdim=True))


def test_box_is_the_mean_of_squares_and_bicubic_is_pillows():
    (x,) = draw(0, (1, 1, 1, 16, 24))
    box = x[0].view(1, 1, 4, 4, 6, 4).mean((3, 5))
    torch.testing.assert_close(Downsample(4, (16, 24))(x), box)
    pillow = Image.fromarray(x[0, 0, 0].float().numpy()).resize((6, 4), Image.Resampling.BICUBIC)
    ours = Downsample(4, (16, 24), "bicubic")(x)[0, 0].float()
    torch.testing.assert_close(ours, torch.tensor(np.array(pillow)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bicubic 2", "gray"])
def test_measurements_stay_exact_under_autocast(name):
    operator, channels = LINEAR[name]
    x = torch.rand(1, 2, channels, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = operator(x)
        off = operator(operator.project(torch.zeros_like(x), y)) - y
    assert y.dtype == torch.float32
    assert off.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Gray([0, 0, 0]), "not all zero"),
        (lambda: Gray([math.nan, 1, 1]), "finite"),
        (lambda: Mask(torch.zeros(4, 4)), "leaves nothing"),
        (lambda: Downsample(3, (8, 8)), "cannot be shrunk 3 times"),
        (lambda: Downsample(0, (8, 8)), "cannot be shrunk"),
        (lambda: Downsample(2, (8, 8), "nearest"), "'nearest'"),
        (lambda: Jpeg([[0] * 64], (8, 8)), "not positive"),
        (lambda: Jpeg([[1] * 64] * 2, (8, 8), (5, 1)), "subsampling"),
        (lambda: Jpeg([[1] * 64] * 2, (8, 8), orientation=9), "orientation 9"),
        (lambda: standard_tables(0), "from 1 to 100"),
    ],
)
def test_useless_operators_are_refused(make, says):
    with pytest.raises(UsageError, match=says):
        make()


def photograph(size=32):
    """A smooth picture with an edge, ``(size, size, 3)`` uint8: what JPEG is made for."""
    row, column = np.mgrid[0:size, 0:size] / size
    planes = [0.5 + 0.3 * np.sin(5 * row + 3 * column), 0.3 + 0.5 * column, np.where(row + column > 1, 0.7, 0.25)]
    return (255 * np.stack(planes, axis=-1)).round().astype(np.uint8)


def compressed(image, quality, subsampling):
    """What libjpeg makes of a Pillow image, as ``(1, c, h, w)`` in [0, 1], and the file's tables."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    decoded = Image.open(file)
    tables = [decoded.quantization[key] for key in sorted(decoded.quantization)]
    pixels = np.array(decoded)
    return torch.tensor(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)[None].float() / 255, tables


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize(("subsampling", "name"), [((1, 1), 0), ((1, 2), 1), ((2, 2), 2)])
def test_jpeg_is_libjpegs(quality, subsampling, name):
    image = Image.fromarray(photograph())
    y, tables = compressed(image, quality, name)
    assert [list(table) for table in tables] == standard_tables(quality)
    operator = Jpeg(tables, (32, 32), subsampling)
    x = torch.tensor(np.array(image)).permute(2, 0, 1)[None, None].float() / 255
    assert (operator(x) - y).square().mean().sqrt() * 255 < 2.5  # libjpeg calculates in whole numbers
    assert (operator.project(x, y) - x).abs().mean() * 255 < 0.5  # the truth explains its own file
    start = torch.full_like(x, 0.5)
    for _ in range(8):
        start = operator.project(start, y).clamp(0, 1)
    assert (operator(start) - y).square().mean().sqrt() * 255 < 1


def test_gray_jpeg_of_a_size_that_is_no_multiple_of_its_blocks():
    image = Image.fromarray(photograph(28)[..., 0])
    y, tables = compressed(image, 20, 0)
    operator = Jpeg(tables, (28, 28))
    assert operator(torch.tensor(np.array(image))[None, None, None].float() / 255).shape == (1, 1, 28, 28)
    x = torch.rand(1, 1, 1, 28, 28)
    off = []
    for _ in range(20):  # the file knows more about the blocks at the edge than the picture shows: it takes longer
        x = operator.project(x, y).clamp(0, 1)
        off.append(float((operator(x) - y).square().mean().sqrt() * 255))
    assert off[-1] < 4 < off[0]


@pytest.mark.parametrize(
    ("like", "luma", "subsampling"), [(1, 0x12, (2, 1)), (2, 0x41, (1, 4)), (2, 0x14, (4, 1))]
)  # 4:4:0, 4:1:1, and that one turned
def test_jpeg_of_other_subsamplings(tmp_path, like, luma, subsampling):
    """A file of 4:2:2 or 4:2:0 whose header arranges its blocks in another way: a picture in disorder, but a file."""
    file = io.BytesIO()
    Image.fromarray(photograph(64)[:32]).save(file, "JPEG", quality=50, subsampling=like)
    data = bytearray(file.getvalue())
    data[data.index(b"\xff\xc0") + 11] = luma
    (tmp_path / "x.jpg").write_bytes(data)
    coding = images.jpeg_coding(tmp_path / "x.jpg")
    assert (coding.size, coding.subsampling) == ((32, 64), subsampling)
    y = torch.tensor(images.read(tmp_path / "x.jpg"))[None]
    operator = Jpeg(*coding)
    x = torch.full_like(y, 0.5)[None]
    for _ in range(8):
        x = operator.project(x, y).clamp(0, 1)
    assert (operator(x) - y).square().mean().sqrt() * 255 < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_that_is_stored_turned(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(photograph(64)[:32, 16:])  # 48 wide
    image.save(tmp_path / "x.jpg", quality=20, exif=exif)
    y = torch.tensor(images.read(tmp_path / "x.jpg"))[None]
    coding = images.jpeg_coding(tmp_path / "x.jpg")
    assert coding.size == tuple(y.shape[2:])
    operator = Jpeg(*coding)
    image.getexif()[0x0112] = orientation
    truth = torch.tensor(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1)[None, None].float() / 255
    assert (operator(truth) - y).square().mean().sqrt() * 255 < 2.5
    assert (operator.project(truth, y) - truth).abs().mean() * 255 < 0.5


def test_gray_jpeg_makes_pictures_of_colour_gray():
    y, tables = compressed(Image.fromarray(photograph()[..., 0]), 20, 0)
    operator, x, y = Jpeg(tables, (32, 32)), torch.rand(1, 1, 3, 32, 32), y.expand(-1, 3, -1, -1)
    found = operator.project(x, y)
    assert found.shape == x.shape
    assert (found - found[:, :, :1]).abs().max() < 1e-6
    gray = Jpeg(tables, (32, 32)).project(found[:, :, :1], y[:, :1])
    torch.testing.assert_close(gray, found[:, :, :1])
    assert (operator(x) - y).square().mean().sqrt() > (operator(found) - y).square().mean().sqrt()
    v = torch.rand_like(x)
    torch.testing.assert_close(linearized(operator, 0.3 + 0.4 * x)(v), v[0], atol=2e-5, rtol=0)


def test_jpegs_derivative_takes_rounding_for_the_identity():
    operator = Jpeg(standard_tables(75), (16, 16), (1, 1))
    x, v, u = 0.3 + 0.4 * torch.rand(3, 1, 1, 3, 16, 16).double()
    derivative = linearized(operator, x)
    torch.testing.assert_close(derivative(v), v[0], atol=2e-5, rtol=0)  # YCbCr's published numbers have six digits
    torch.testing.assert_close((derivative(v) * u[0]).sum(), (v * derivative.adjoint(u[0])).sum())


CONSISTENT = LINEAR | {"sum": (Mixture([1.0, 1.0]), 1), "mean of three": (Mixture([0.5, 0.3, 0.2]), 3)}


@pytest.mark.parametrize("name", CONSISTENT)
def test_consistent_pictures_explain_y_and_are_nearer_to_the_truth(name):
    operator, channels = CONSISTENT[name]
    noise, uniform = draw(0, (operator.k, 4, channels, 8, 8), (operator.k, 4, channels, 8, 8))
    truth = uniform.clamp(0, 1)  # half of the pixels are black or white, where the sets meet at an edge
    x, y = truth + 0.05 * noise, operator(truth)
    distances = [(consistent(x, operator, y, rounds) - truth).norm() for rounds in range(9)]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(distances))
    assert distances[-1] < 0.9 * distances[0]
    found = consistent(x, operator, y)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (operator(found) - y).square().mean().sqrt() < 1 / 255


def test_without_a_projection_consistent_pictures_are_clipped():
    class Squared:
        k, scale = 1, 1.0

        def __call__(self, x):
            return x[0] ** 2

    x = torch.tensor([-0.5, 0.5, 1.5]).view(1, 1, 1, 1, 3)
    assert consistent(x, Squared(), x[0]).flatten().tolist() == [0, 0.5, 1]

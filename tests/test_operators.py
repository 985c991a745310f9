import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basis_cli.errors import UsageError
from basis_cli.operators import Mixture, Unobserved

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

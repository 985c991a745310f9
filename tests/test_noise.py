import math

import pytest
import scipy.stats
import torch

from basis_cli.samplers.noise import PerImageNoise, picture_seeds

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(z):
    """SplitMix64's output function in plain integers (Steele, Lea and Flood 2014, figure 16)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def unmix(z):
    """The inverse of :func:`mix`: which state gives the word ``z``."""
    z ^= z >> 31 ^ z >> 62
    z = (z * pow(0x94D049BB133111EB, -1, 2**64)) & MASK
    z ^= z >> 27 ^ z >> 54
    z = (z * pow(0xBF58476D1CE4E5B9, -1, 2**64)) & MASK
    return z ^ z >> 30 ^ z >> 60


def signed(z):
    return z - 2**64 if z >= 2**63 else z


def splitmix64(state, count):
    return [mix((state + i * GOLDEN) & MASK) for i in range(1, count + 1)]


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_reference_is_splitmix64():
    # The first outputs for state 0, as published with the reference implementation.
    assert splitmix64(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert all(mix(unmix(z)) == z for z in (0, 1, 2**63, MASK, 0x0123456789ABCDEF))


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31, 2**62 + 7, 2**63 - 1])
def test_bits_equal_plain_integers(seed):
    state = mix(mix((seed + GOLDEN) & MASK))
    noise = PerImageNoise([seed, 3])
    first, second = noise._bits((2, 2, 5), 10), noise._bits((1, 2, 7), 7)
    got = torch.cat([first[:, 0].flatten(), second[:, 0].flatten()]).tolist()
    assert got == [signed(z) for z in splitmix64(state, 17)]


def test_a_long_stream_wraps_like_64_bit_integers():
    noise = PerImageNoise([5])
    noise.offset = 2**40 + 3
    expected = mix((mix(mix(5 + GOLDEN & MASK)) + (2**40 + 4) * GOLDEN) & MASK)
    assert noise._bits((1, 1), 1).item() == signed(expected)


@pytest.mark.parametrize("word", [0, MASK])
def test_the_extreme_words_give_usable_numbers(word):
    # About one number in 2^24 comes this close to the ends: too rare to meet by drawing, too common to get wrong.
    noise = PerImageNoise([0])
    noise.streams = torch.tensor([signed((unmix(word) - GOLDEN) & MASK)])
    value = noise.uniform((1, 1)).item()
    assert 0 < value < 1
    noise.offset = 0
    assert torch.isfinite(noise.normal((1, 1, 2))).all()


@pytest.mark.parametrize("draw", ["uniform", "normal"])
@pytest.mark.parametrize("picture", [(1, 1, 1), (1, 3, 3), (3, 5, 7), (1, 28, 28)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_picture_is_the_same_alone_and_anywhere_in_a_batch(draw, picture, k):
    seeds = [7, 0, 41, 2**62, 8, 7]
    batch = getattr(PerImageNoise(seeds), draw)((k, len(seeds), *picture))
    for position, seed in enumerate(seeds):
        alone = getattr(PerImageNoise([seed]), draw)((k, 1, *picture))
        assert torch.equal(batch[:, position], alone[:, 0])
    assert torch.equal(batch[:, 0], batch[:, 5])


def test_shapes_and_type():
    noise = PerImageNoise([0, 1])
    for shape in [(1, 2), (3, 2, 1), (2, 2, 1, 5, 3)]:
        for x in (noise.uniform(shape), noise.normal(shape)):
            assert x.shape == shape
            assert x.dtype == torch.float32


def test_offset_continues_a_stream_exactly():
    noise = PerImageNoise([3, 9])
    noise.uniform((2, 2, 1, 3, 3))
    noise.normal((2, 2, 1, 3, 3))
    offset = noise.offset
    expected = [noise.normal((2, 2, 1, 3, 3)), noise.uniform((1, 2, 5)), noise.normal((3, 2, 4))]
    later = PerImageNoise([3, 9])
    later.offset = offset
    got = [later.normal((2, 2, 1, 3, 3)), later.uniform((1, 2, 5)), later.normal((3, 2, 4))]
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_no_number_is_given_twice():
    noise = PerImageNoise([3])
    words = torch.cat([noise._bits((k, 1, 3), 3 * k).flatten() for k in (1, 2, 3, 2, 1)])
    assert words.unique().numel() == words.numel()


def test_uniform_numbers_are_uniform():
    x = PerImageNoise(range(10)).uniform((2, 10, 10_000))
    assert 0 < x.min()
    assert x.max() < 1
    assert scipy.stats.kstest(x.flatten().numpy(), "uniform").pvalue > 1e-3


def test_normal_numbers_are_normal():
    x = PerImageNoise(range(10)).normal((2, 10, 10_000)).double().flatten()
    n = x.numel()
    for power, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(x.pow(power).mean() - expected) < 4 * math.sqrt(variance / n)
    assert scipy.stats.kstest(x.numpy(), "norm").pvalue > 1e-3
    assert x.abs().max() > 4  # the tails are there


def test_neither_box_muller_half_nor_draw_nor_seed_is_correlated():
    n = 100_000
    noise = PerImageNoise([0, 1, 2, 3])
    first, second = noise.normal((1, 4, n)), noise.normal((1, 4, n))
    cosines, sines = first[..., : n // 2], first[..., n // 2 :]
    bound = 4.5 / math.sqrt(n / 2)
    for f in (lambda x: x, torch.square):  # squares too: the halves share a radius
        assert abs(correlation(f(cosines), f(sines))) < bound
        assert abs(correlation(f(first), f(second))) < bound
        assert abs(correlation(f(first[..., :-1]), f(first[..., 1:]))) < bound
        between = torch.corrcoef(f(first[0])) - torch.eye(4)
        assert between.abs().max() < bound


@pytest.mark.parametrize("seeds", [range(2000), range(0, 2**20, 2**9), [2**62 + i for i in range(2000)]])
def test_the_first_numbers_of_neighbouring_seeds_are_independent(seeds):
    first = PerImageNoise(seeds).uniform((1, len(seeds), 2))[0]
    assert scipy.stats.kstest(first[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert abs(correlation(first[:-1, 0], first[1:, 0])) < 4.5 / math.sqrt(len(seeds))
    assert abs(correlation(first[:, 0], first[:, 1])) < 4.5 / math.sqrt(len(seeds))


def test_the_seed_of_a_picture_is_of_its_content_and_the_run():
    y = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    seeds = picture_seeds(1, y, 2)
    assert len({seed for each in seeds for seed in each}) == 8
    assert picture_seeds(1, y.flip(0), 2) == seeds[::-1]
    assert picture_seeds(1, y[2:3]) == [seeds[2][:1]]
    assert picture_seeds(1, torch.zeros(1, 2, 2)) == [[4505398122292821178]]  # on every machine
    assert picture_seeds(2, y) != picture_seeds(1, y)
    y[0, 0, 0, 0] += 1 / 255 if y[0, 0, 0, 0] < 0.5 else -1 / 255
    changed = picture_seeds(1, y, 2)
    assert changed[0] != seeds[0]
    assert changed[1:] == seeds[1:]


@pytest.mark.parametrize("parts", [255, 65535, 3 * 255, 16 * 255, 255_000])
def test_rounding_does_not_change_the_seed(parts):
    """Of 8 and 16 bits, means of three channels and of blocks of pixels, brightness of colours."""
    y = (torch.arange(parts + 1).double() / parts).float()[None]
    assert picture_seeds(0, y * (1 + 2**-22)) == picture_seeds(0, y) == picture_seeds(0, y * (1 - 2**-22))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers():
    cpu, gpu = PerImageNoise([0, 5]), PerImageNoise([0, 5], "cuda")
    assert torch.equal(cpu.uniform((2, 2, 999)), gpu.uniform((2, 2, 999)).cpu())
    torch.testing.assert_close(cpu.normal((2, 2, 999)), gpu.normal((2, 2, 999)).cpu(), rtol=1e-5, atol=1e-5)

"""The numbers themselves: Philox against its published answers, slices against the whole, domains, moments."""

import math

import pytest
import torch

from zoft.directions import Direction, DirectionSource, Distribution, Window, draw, gaussian, rounding_bits
from zoft.directions.philox import philox4x32
from zoft.directions.roots import root
from zoft.errors import UsageError
from zoft.naming import stream_ids

KNOWN = [  # the known-answer file of Random123, philox 4x32 with 10 rounds: counter, key, result
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, expected) -> None:
    words = tuple(torch.tensor([word], dtype=torch.int64) for word in counter)
    assert [int(word) for word in philox4x32(words, key)] == expected


@pytest.mark.parametrize("distribution", Distribution)
def test_a_slice_is_the_slice_of_the_whole(distribution) -> None:
    direction = Direction(7, 3, 2, distribution)
    whole = Window.whole(stream=123456789, shape=(389, 53))
    z = draw(direction, whole)
    for row, rows, column, columns in ((0, 1, 0, 53), (127, 3, 5, 7), (128, 261, 52, 1), (200, 189, 0, 53)):
        part = Window(whole.stream, row, rows, column, columns, total_columns=53)
        assert torch.equal(draw(direction, part), z[row : row + rows, column : column + columns])


def test_shapes_flatten_their_leading_dimensions() -> None:
    direction = Direction(0, 0)
    assert torch.equal(draw(direction, Window.whole(9, (2, 3, 5))), draw(direction, Window.whole(9, (6, 5))))
    assert draw(direction, Window.whole(9, (7,))).shape == (7, 1) and draw(direction, Window.whole(9, ())).shape == (
        1,
        1,
    )


def test_nothing_that_differs_in_address_is_equal() -> None:
    window = Window.whole(1, (64, 4))
    directions = [*DirectionSource(0).at(0, 2), *DirectionSource(0).probes_at(0, 2), Direction(0, 1), Direction(1, 0)]
    drawn = [draw(direction, window) for direction in directions] + [draw(directions[0], Window.whole(2, (64, 4)))]
    for i, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:i])


def test_rows_beyond_two_to_the_31_elements_have_their_own_numbers() -> None:
    far = Window(5, row=1 << 40, rows=128, column=0, columns=8, total_columns=8)
    for distribution in Distribution:
        direction = Direction(0, 0, distribution=distribution)
        assert not torch.equal(draw(direction, far), draw(direction, Window(5, 0, 128, 0, 8, 8)))
        assert torch.equal(draw(direction, far)[5:9], draw(direction, far.panel(5, 9)))


@pytest.mark.parametrize(("distribution", "fourth"), [(Distribution.RADEMACHER, 1.0), (Distribution.GAUSSIAN, 3.0)])
def test_moments(distribution, fourth) -> None:
    z = draw(Direction(0, 0, distribution=distribution), Window.whole(3, (2000, 500))).double()
    error = 5.0 / z.numel() ** 0.5  # five standard errors of a mean of unit variance
    assert abs(z.mean()) < error and abs(z.square().mean() - 1) < error * 2**0.5
    assert abs((z**4).mean() - fourth) < error * 96**0.5  # Var z^4 = 105 - 9 for a normal
    for shift in (1, 128 * 500, 4 * 500):  # neighbours in a row, in a block and in the next block
        flat = z.flatten()
        assert abs((flat[:-shift] * flat[shift:]).mean()) < error * 1.1


def test_normals_over_all_words() -> None:
    """Moments and tails over all 2^32 words, a pair of normals each: nothing is sampled.

    The radius hangs on bits 8 to 31, the angle on bits 0 to 15: for each value of bits 8 to 15, which both have, the means over
    the upper and the lower bits multiply.
    """
    radius = gaussian._radius(torch.arange(1 << 24) << 8).double().view(1 << 16, 256)  # [bits 16 to 31, bits 8 to 15]
    every = torch.arange(1 << 16)
    units = gaussian.box_muller((every, every, every, every))[:2].double() / gaussian._radius(every).double()
    first, second = units.view(2, 256, 256)  # of length 1: [bits 8 to 15, bits 0 to 7]

    def mean(power: int, of_angle: torch.Tensor) -> float:
        return float((radius.pow(power).mean(dim=0) * of_angle.mean(dim=1)).mean())

    for lane in (first, second):
        assert abs(mean(1, lane)) < 1e-7 and abs(mean(3, lane.pow(3))) < 2e-6
        assert abs(mean(2, lane.square()) - 1) < 1e-6
        assert abs(mean(4, lane.pow(4)) - 3) < 2e-5 and abs(mean(6, lane.pow(6)) - 15) < 1e-3
        for beyond, off in ((4.0, 0.001), (4.75, 0.01), (5.0, 0.03)):
            far = radius[: int(math.exp(-(beyond**2) / 2) * (1 << 16)) + 2]  # the others are nearer than that
            share = sum(float((row[:, None] * lane > beyond).double().mean()) for row in far) / (1 << 16)
            assert share == pytest.approx(math.erfc(beyond / 2**0.5) / 2, rel=off)
    assert abs(mean(2, first * second)) < 1e-12


def test_rounding_bits_are_halves_of_turned_words() -> None:
    """Element by element as docs/design.md has it."""
    bits = rounding_bits(4, 6, Window(9, 13, 40, 2, 3, total_columns=7))
    for place in range(bits.numel()):
        row, column = 13 + place // 3, 2 + place % 3
        counter = (row // 16 * 7 + column, 2 << 28, 9, 0)  # domain 2
        word = int(philox4x32(tuple(torch.tensor([part]) for part in counter), (4, 6))[row % 16 // 4])
        turn = 8 * (row % 4)
        assert int(bits[place // 3, place % 3]) == (word >> turn | word << (32 - turn)) & 0xFFFF


def test_rows_that_share_a_byte_of_rounding_bits_round_nearly_apart() -> None:
    """Exact: P(both up) - P(up) P(up) for rows whose 16 bits are (a, b) and (b, c), by where their values lie."""
    byte, limits = torch.arange(256.0), torch.arange(1.0, 65536.0, 37)[:, None]  # of 2^16: up where bits reach it
    by_upper = (256 * byte + 256 - limits).clamp(0, 256) / 256  # [limits, b], b the upper byte
    by_lower = (65536 - limits + byte) // 256 / 256  # b the lower one
    chance = (65536 - limits[:, 0]) / 65536
    torch.testing.assert_close(by_upper.mean(dim=1), chance)
    covariance = by_upper @ by_lower.t() / 256 - chance[:, None] * chance[None, :]
    variance = chance * (1 - chance)
    assert float(covariance.abs().max()) <= 2**-10
    assert float((covariance.diagonal() / variance).abs().max()) <= 2**-8 * 1.001


def test_rounding_bits_are_uniform() -> None:
    bits = rounding_bits(0, 0, Window.whole(3, (1000, 300))).double() / 65536
    assert abs(bits.mean() - 0.5) < 5 * (1 / 12) ** 0.5 / bits.numel() ** 0.5
    assert torch.bincount((bits.flatten() * 16).long()).min() > 300_000 / 16 * 0.95


def test_no_global_generator_is_touched() -> None:
    before = torch.random.get_rng_state()
    draw(Direction(0, 0, distribution=Distribution.GAUSSIAN), Window.whole(1, (10, 10)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 1 << 32}, {"step": -1}, {"index": 4096}])
def test_addresses_outside_the_counter_are_refused(bad) -> None:
    with pytest.raises(UsageError, match="does not fit"):
        Direction(**{"seed": 0, "step": 0, **bad})


def test_two_names_with_one_stream_are_refused() -> None:
    with pytest.raises(UsageError, match="address one random stream"):
        stream_ids(["a.weight", "a.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roots_are_rounded_once_wherever_an_element_lies(dtype: torch.dtype) -> None:
    """So that a panel, a shard and a GPU give the bits of the whole; torch's own root on a CPU does not."""
    x = torch.rand(1 << 16, generator=torch.Generator().manual_seed(5), dtype=dtype)
    found = root(x)
    assert all(
        found[i].item() == torch.tensor(math.sqrt(x[i].item()), dtype=dtype).item() for i in range(0, 1 << 16, 7)
    )
    assert torch.equal(torch.cat([root(part) for part in x.split(1001)]), found)
    assert torch.equal(root(x.view(256, 256).t()), found.view(256, 256).t())
    assert root(torch.tensor(4.0, dtype=dtype)).shape == ()

"""SplitMix64 and the masks drawn with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from merge_optuna.methods import mask_key
from merge_optuna.methods._random import keep_mask, random_bits

from . import reference

# What Vigna's splitmix64.c prints for the seed 1234567; in many test suites, e.g. Rosetta Code.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
N = 200_000
CPU = torch.device("cpu")


def outputs(key: int, n: int) -> list[int]:
    halves = random_bits(key, 2 * n).tolist()
    return [low | high << 32 for low, high in zip(halves[::2], halves[1::2], strict=True)]


def test_the_published_vectors() -> None:
    assert outputs(1234567, 5) == PUBLISHED
    assert reference.splitmix64(1234567, 5).tolist() == PUBLISHED


@pytest.mark.parametrize("key", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF])
def test_every_key_of_64_bits_gives_the_reference_stream(key: int) -> None:
    assert outputs(key, 500) == reference.splitmix64(key, 500).tolist()


def test_a_part_can_be_drawn_on_its_own() -> None:
    whole = random_bits(99, 1000)
    for n in (0, 1, 2, 999):
        assert torch.equal(random_bits(99, n), whole[:n])
    assert torch.equal(random_bits(99, 600, start=400), whole[400:])


def test_bits_are_uniform() -> None:
    bits = random_bits(mask_key(0, "math", "model.norm.weight"), N).numpy()
    assert bits.min() >= 0
    assert bits.max() < 2**32
    cells = np.bincount(bits >> 24, minlength=256)
    assert stats.chisquare(cells).pvalue > 1e-4
    assert stats.kstest(bits / 2**32, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_masks_have_their_density(density: float) -> None:
    for seed in range(5):
        mask = keep_mask(mask_key(seed, "math", "w"), torch.Size([N]), density, CPU)
        assert stats.binomtest(int(mask.sum()), N, density).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(), (1,), (13, 77), (3, 70_001)])
@pytest.mark.parametrize("density", [0.0, 2.0**-34, 1e-3, 0.3, 1 - 2.0**-34, 1.0])
def test_masks_are_the_reference_mask(shape: tuple[int, ...], density: float) -> None:
    """Also across the chunks in which a mask is drawn."""
    for key in (4711, 2**64 - 1):
        mask = keep_mask(key, torch.Size(shape), density, CPU)
        assert np.array_equal(mask.numpy(), reference.mask(key, shape, density))


def test_the_compare_has_32_bits() -> None:
    bits = random_bits(7, 100).tolist()
    for i, value in enumerate(bits):
        assert not keep_mask(7, torch.Size([100]), value / 2**32, CPU)[i]
        assert keep_mask(7, torch.Size([100]), (value + 1) / 2**32, CPU)[i]


def test_what_a_smaller_density_keeps_a_larger_one_keeps_too() -> None:
    few = keep_mask(5, torch.Size([N]), 0.2, CPU)
    many = keep_mask(5, torch.Size([N]), 0.6, CPU)
    assert not (few & ~many).any()


def test_masks_of_different_keys_are_independent() -> None:
    keys = [
        mask_key(seed, model, tensor)
        for seed, model, tensor in itertools.product((0, 1), ("ja", "math"), ("a", "b"))
    ]
    masks = [keep_mask(key, torch.Size([N]), 0.3, CPU) for key in keys]
    for one, other in itertools.combinations(masks, 2):
        both = int((one & other).sum())
        assert stats.binomtest(both, N, 0.09).pvalue > 1e-5


def test_neighbouring_elements_are_independent() -> None:
    mask = keep_mask(mask_key(0, "math", "w"), torch.Size([N]), 0.3, CPU)
    for lag in (1, 2, 3, 64):
        pairs = int((mask[lag:] & mask[:-lag]).sum())
        assert stats.binomtest(pairs, N - lag, 0.09).pvalue > 1e-5


def test_keys_tell_seed_model_and_tensor_apart() -> None:
    names = ["", "0", "a", "b", "ab", "1a"]
    keys = {
        mask_key(seed, model, tensor) for seed in (0, 1, 10) for model in names for tensor in names
    }
    assert len(keys) == 3 * 6 * 6
    assert all(0 <= key < 2**64 for key in keys)


def test_keys_are_the_documented_hash() -> None:
    """A recipe must give the same weights in every later version."""
    assert mask_key(7, "math", "model.norm.weight") == reference.key(
        7, "math", "model.norm.weight"
    )
    # Written down once from `printf '0\0math\0w' | b2sum -l 64`, least significant byte first.
    assert mask_key(0, "math", "w") == int.from_bytes(bytes.fromhex("62cb65a48efbdf6e"), "little")

"""Random entries from counters, against JAX's own generator, published vectors and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import _random, tree
from cljax._joined import joined_of

pytestmark = pytest.mark.fast

KEY = jax.random.key(7)


def word(value):
    return jnp.uint32(value)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers_of_its_authors(key, counter, expected):
    found = _random.threefry((word(key[0]), word(key[1])), word(counter[0]), word(counter[1]))
    assert tuple(map(int, found)) == expected


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 4), (0, 2)])
def test_the_bits_and_the_numbers_are_those_of_jax(shape):
    np.testing.assert_array_equal(
        _random.normal(KEY, shape, jnp.float32, (0, 0)), jax.random.normal(KEY, shape, jnp.float32)
    )
    np.testing.assert_array_equal(
        _random.rademacher(KEY, shape, jnp.float32, (0, 0)), jax.random.rademacher(KEY, shape, jnp.float32)
    )


def test_double_precision_has_all_its_bits(x64):
    found = _random.normal(KEY, (1000,), jnp.float64, (0, 0))
    np.testing.assert_array_equal(found, jax.random.normal(KEY, (1000,), jnp.float64))
    assert np.any(found != found.astype(np.float32))


def test_half_precision_is_rounded_from_single():
    for dtype in (jnp.bfloat16, jnp.float16):
        wide = _random.normal(KEY, (64,), jnp.float32, (0, 0))
        np.testing.assert_array_equal(_random.normal(KEY, (64,), dtype, (0, 0)), wide.astype(dtype))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_any_generator_give_independent_probes(impl):
    key = jax.random.key(3, impl=impl)
    probes = np.stack([tree.random_like(jax.random.fold_in(key, i), jnp.zeros(4096)) for i in range(8)])
    gram = probes @ probes.T / 4096
    # entries off the diagonal have a standard deviation of 1/64, those on it of √2/64
    np.testing.assert_allclose(gram, np.eye(8), atol=5 * np.sqrt(2) / 64)


def test_normal_entries_have_the_moments_of_the_normal_distribution():
    x = np.asarray(tree.random_like(KEY, {"a": jnp.zeros((300, 300)), "b": jnp.zeros(10_000)})["a"], float)
    n = x.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(x**power) - moment) < 5 * np.sqrt(variance / n)
    neighbours = np.mean(x[:, 1:] * x[:, :-1]), np.mean(x[1:] * x[:-1])
    assert np.max(np.abs(neighbours)) < 5 / np.sqrt(n)


@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_leaves_and_one_array_hold_the_same_entries(distribution):
    like = {"a": jnp.zeros((3, 4)), "b": [jnp.zeros(5), jnp.zeros(())], "c": jnp.zeros((2, 1, 3))}
    layout = joined_of(tree.struct(like))
    rows = layout.row_shapes(like)
    leaves = tree.random_like(KEY, like, distribution)
    np.testing.assert_array_equal(
        tree.random_like(KEY, rows, distribution).leaves[0],
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(leaves)]),
    )
    scattered = tree.scattered_like(word(5), rows).leaves[0]
    np.testing.assert_array_equal(
        scattered, np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree.scattered_like(word(5), like))])
    )
    assert len(np.unique(scattered)) == layout.size
    program = jax.jit(lambda key: tree.random_like(key, rows, distribution)).lower(KEY).as_text()
    assert "concatenate" not in program  # one operation, however many leaves


def test_no_two_entries_share_a_counter(monkeypatch):
    monkeypatch.setattr(_random, "_BLOCK", 16)
    shapes = [(3,), (2, 6), (3, 2, 7), (), (5, 3), (1,), (2, 16), (4, 4), (2, 5, 16)]
    seen = set()
    for shape, start in zip(shapes, _random.starts(shapes), strict=True):
        high, low = (np.broadcast_to(x, shape).ravel().tolist() for x in _random.counters(shape, start))
        places = set(zip(high, low, strict=True))
        assert len(places) == np.prod(shape, dtype=int)
        assert max(low) < 16
        assert not places & seen
        seen |= places
    starts = _random.starts(shapes)
    scattered = [
        _random.scattered(word(5), *like).ravel() for like in zip(shapes, [jnp.float32] * 9, starts, strict=True)
    ]
    assert len(np.unique(np.concatenate(scattered))) == len(seen)


def test_arrays_of_more_entries_than_a_word_counts_are_counted_by_their_rows():
    shapes = [(2**20,), (2**18, 2**15), (10,)]
    assert _random.starts(shapes) == [(0, 0), (1, 0), (1 + 2**18, 0)]


def test_an_axis_that_no_counter_holds_is_refused():
    with pytest.raises(ValueError, match="shape: expected axes of at most 4294967296 entries, got"):
        jax.eval_shape(lambda: tree.random_like(KEY, jax.ShapeDtypeStruct((2**32 + 1,), jnp.float32)))


@pytest.mark.parametrize("shape", [(1, 2**16, 2**16), (0, 2**20, 2**20)])
def test_axes_of_one_entry_and_of_none_may_stand_before_large_ones(shape):
    made = jax.eval_shape(lambda: tree.scattered_like(word(1), jax.ShapeDtypeStruct(shape, jnp.float32)))
    assert made.shape == shape


def test_double_precision_that_is_off_gives_single():
    like = jax.ShapeDtypeStruct((4,), np.float64)
    np.testing.assert_array_equal(tree.random_like(KEY, like), tree.random_like(KEY, jnp.zeros(4)))
    assert tree.struct(like).dtype == tree.work_struct(like).dtype == jnp.float32


def test_a_leaf_that_is_not_floating_is_refused():
    with pytest.raises(TypeError, match=r"tree: expected floating leaves, got \['float32', 'int32'\]"):
        tree.random_like(KEY, {"a": jnp.zeros(2), "b": jnp.zeros(2, jnp.int32)})


def test_the_generator_is_one_operation_without_a_loop():
    text = jax.jit(lambda key: _random.normal(key, (64,), jnp.float32, (0, 0))).lower(KEY).as_text()
    assert "while" not in text


def test_joining_a_product_leaves_no_concatenation_to_fuse():
    """XLA's CPU backend fuses it into loops over the whole result with masked loads, see ``Joined.rows_like``."""
    like = {"a": jnp.ones((32, 16)), "b": jnp.ones(16)}
    layout = joined_of(tree.struct(like))
    rows = layout.rows(like)

    def product(rows):
        return tree.rows_like(jax.tree.map(jnp.sin, tree.from_rows(rows)), rows)

    compiled = jax.jit(product).lower(rows).compile()
    assert "concatenate(" not in compiled.as_text()
    np.testing.assert_allclose(compiled(rows).leaves[0], np.sin(np.ones(528)), rtol=4e-7)

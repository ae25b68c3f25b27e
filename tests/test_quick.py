"""Programs that compile quickly on a CPU: the same results, in and outside of transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import _quick
from cljax._quick import quick_jit

pytestmark = pytest.mark.fast

X = jnp.arange(1.0, 4.0)


@quick_jit(static_argnames="power")
def raised(x, power):
    """``x ** power``."""
    return x**power


class Scale:
    """Has a compiled method."""

    def __init__(self, by):
        self.by = by

    @quick_jit(static_argnums=0)
    def times(self, x):
        """The product."""
        return self.by * x


TRANSFORMED = {
    "method": (lambda: Scale(3).times(X), 3 * X),
    "alone": (lambda: raised(X, power=2), X**2),
    "jit": (lambda: jax.jit(lambda x: raised(x, power=2))(X), X**2),
    "constant in jit": (lambda: jax.jit(lambda x: x + raised(X, power=2))(X), X + X**2),
    "vmap": (lambda: jax.vmap(lambda x: raised(x, power=2))(X), X**2),
    "constant in vmap": (lambda: jax.vmap(lambda x: x + raised(jnp.float32(3), power=2))(X), X + 9),
    "grad": (lambda: jax.grad(lambda x: raised(x, power=3).sum())(X), 3 * X**2),
    "map": (lambda: jax.lax.map(lambda x: raised(x, power=2), X), X**2),
    "jvp": (lambda: jax.jvp(lambda x: raised(x, power=2), (X,), (X,))[1], 2 * X**2),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_the_same_function_everywhere(name):
    found, wanted = TRANSFORMED[name]
    np.testing.assert_array_equal(found(), wanted)


def test_only_the_outermost_program_has_options(monkeypatch):
    _quick._understood()
    given = []
    compiled = jax.jit
    monkeypatch.setattr(jax, "jit", lambda fn, **options: given.append(options) or compiled(fn, **options))
    doubled = quick_jit(lambda x: 2 * x)
    compiled(doubled)(X)
    assert given == [{}]
    doubled(X)
    assert [sorted(options) for options in given] == [[], ["compiler_options"]]


def test_donation_and_lowering():
    add = quick_jit(lambda x, y: x + y, donate_argnums=0)
    x = jnp.ones(64)
    assert add.lower(x, x).compile().memory_analysis().alias_size_in_bytes == x.nbytes
    add(x, jnp.ones(64))
    assert x.is_deleted()


def test_what_the_environment_sets_is_left_to_it(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    _quick._understood.cache_clear()
    try:
        assert "xla_backend_optimization_level" not in _quick._understood()
    finally:
        _quick._understood.cache_clear()


def test_options_that_a_backend_lacks_are_left_out(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(_quick, "_WISHES", {"xla_no_such_option": 1, "xla_backend_optimization_level": 1})
    _quick._understood.cache_clear()
    try:
        assert _quick._understood() == {"xla_backend_optimization_level": 1}
        np.testing.assert_array_equal(quick_jit(lambda x: x + 1)(X), X + 1)
    finally:
        _quick._understood.cache_clear()


def test_other_backends_compile_as_ever(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    function = quick_jit(lambda x: x + 1)
    assert function._chosen() is function._plain

"""Spectral density by the kernel polynomial method: Chebyshev moments of random probes, damped."""

from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_key, check_positive_int
from cljax._in_flight import landed
from cljax._pytree import pytree_dataclass
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.bounds import spectrum_bounds
from cljax.spectral.chebyshev_density import ChebyshevDensity, moments_are_of_a_density
from cljax.spectral.driver import choose_driver
from cljax.spectral.recurrence import each_probe, repeat


@pytree_dataclass
class ChebyshevState:
    """The recurrence between two steps, for B = (A − center) / half_width.

    Attributes:
        previous: T_{k−1}(B) z; zeros before the first step.
        vector: T_k(B) z.
        moments: (2m + 1,), zᵀ T_j(B) z for j up to 2k.
        center: scalar.
        half_width: scalar.
        step: int32 scalar, k.
    """

    previous: PyTree
    vector: PyTree
    moments: jax.Array
    center: jax.Array
    half_width: jax.Array
    step: jax.Array


def chebyshev_update(state: ChebyshevState, product: PyTree) -> ChebyshevState:
    """One step, given the product of the operator with ``state.vector``: two moments more.

    Args:
        state: with room for two more moments.
        product: A T_k(B) z, in the dtypes of the operator.

    Returns:
        The next state.
    """
    step, moments = state.step, state.moments
    shifted = tree.axpy(-state.center, state.vector, tree.to_work(product))
    mapped = tree.normalize(shifted, state.half_width)
    following = tree.axpy(jnp.where(step == 0, 1.0, 2.0), mapped, tree.scale(-1, state.previous))
    # T_j T_k = (T_{j+k} + T_{|j−k|}) / 2; the first product gives moment 1 itself
    cross = tree.vdot(following, state.vector)
    odd = jnp.where(step == 0, cross, 2 * cross - moments[1])
    even = 2 * tree.vdot(following, following) - moments[0]
    moments = moments.at[2 * step + 1].set(odd).at[2 * step + 2].set(even)
    return ChebyshevState(state.vector, following, moments, state.center, state.half_width, step + 1)


def chebyshev_run(
    driver: Any, product: Matvec, struct: PyTree, probe: PyTree, num_steps: int, low: jax.Array, high: jax.Array
) -> jax.Array:
    """Chebyshev moments of one unit probe, see ``cljax.spectral.recurrence.each_probe``.

    Args:
        driver: "compiled", or anything else for the host loop.
        product: ``v -> A v``.
        struct: shapes and dtypes of the operator's vectors.
        probe: unit vector in the accumulation dtypes.
        num_steps: m.
        low: lower bound of the spectrum.
        high: upper bound of the spectrum.

    Returns:
        Moments, (2m + 1,).
    """
    moments = jnp.zeros(2 * num_steps + 1, jnp.result_type(*jax.tree.leaves(probe))).at[0].set(tree.vdot(probe, probe))
    center, half_width = low / 2 + high / 2, high / 2 - low / 2
    start = ChebyshevState(tree.zeros_like(probe), probe, moments, center, half_width, jnp.zeros((), jnp.int32))
    return repeat(driver, product, struct, chebyshev_update, start, num_steps).moments


def chebyshev_density(
    op: LinearOperator,
    key: jax.Array,
    *,
    num_probes: int = 8,
    degree: int = 100,
    bounds: tuple[Any, Any] | None = None,
    num_bound_steps: int = 20,
    driver: Any = "auto",
) -> ChebyshevDensity:
    """Spectral density of a symmetric operator from Chebyshev moments, damped by Jackson's kernel.

    Two vectors are kept beside the product, whatever the degree. The resolution is the same for all probes and known
    beforehand, about π/degree of half the range; isolated eigenvalues are broadened by as much, where Lanczos
    quadrature would have a node on each.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        num_probes: independent Rademacher probes; the standard error falls with their square root.
        degree: of the polynomial; half as many products for each probe, rounded up.
        bounds: numbers below and above all eigenvalues, in the operator's units; None to take them from
            ``num_bound_steps`` Lanczos steps, with a margin.
        num_bound_steps: products for the bounds, where they are not given.
        driver: "compiled", "host" or "auto", see ``lanczos``.

    Returns:
        The moments, from which densities and their standard errors follow. An eigenvalue outside of the bounds shows
        in them, the sooner the further it is out and the higher the degree; all numbers are then NaN, and
        ``bounds_held`` is False. So may they be where the product computes in a coarser dtype than that of the
        operator's vectors, as a model in bfloat16 with float32 parameters: its rounding may look like an eigenvalue
        outside. Then give ``bounds`` farther out, or a lower ``degree``. NaN in the operator gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, a number is below 1, the bounds are not ascending or the
            driver cannot run here.
        TypeError: if ``key`` is no typed key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([1.0, 3.0]))
        >>> found = spectral.chebyshev_density(op, jax.random.key(0), num_probes=2, degree=20)
        >>> bool(found.bounds_held), round(float(found.moments(1)[0]), 3)
        (True, 2.0)

    References:
        Weiße, Wellein, Alvermann and Fehske, The kernel polynomial method, Rev. Mod. Phys. 78 (2006), equations 25
        (recurrence), 36 (two moments from one product) and 71 (Jackson kernel).
    """
    check_symmetric("op", op)
    num_probes = check_positive_int("num_probes", num_probes)
    degree = check_positive_int("degree", degree)
    num_bound_steps = check_positive_int("num_bound_steps", num_bound_steps)
    dimension = tree.size(op.struct)
    check_key("key", key)
    bound_key, probe_key = jax.random.split(key)
    chosen, bound_products = choose_driver(driver, op, key), 0
    if bounds is None:
        bound_products = min(num_bound_steps, dimension)
        low, high = spectrum_bounds(chosen, op, bound_key, bound_products)
    else:
        low, high = _check_bounds(bounds, op.struct)
    num_steps = (degree + 1) // 2
    moments = each_probe(chosen, op, probe_key, num_probes, chebyshev_run, num_steps, low, high)[:, : degree + 1]
    held = moments_are_of_a_density(moments, low, high, tree.coarsest_eps(op.struct))
    density = ChebyshevDensity(
        chebyshev_moments=jnp.where(held, moments, jnp.nan),
        low=low,
        high=high,
        bounds_held=held,
        num_products=num_probes * num_steps + bound_products,
        dimension=dimension,
    )
    return landed(density)


def _check_bounds(bounds: tuple[Any, Any], struct: PyTree) -> tuple[jax.Array, jax.Array]:
    dtype = tree.work_dtype(jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(struct))))
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds: expected a pair (low, high), got {bounds!r}")
    low, high = (jnp.asarray(bound, dtype) for bound in bounds)
    traced = isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer)
    if not traced and not low < high:
        raise ValueError(f"bounds: expected (low, high) with low < high, got ({low}, {high})")
    return low, high

"""Extreme eigenpairs at both ends of the spectrum, from one Krylov space, with their measured residuals."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._checks import check_key, check_positive_int, check_same_struct, check_tol
from cljax._in_flight import landed
from cljax._layout import Layout, Rows
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator, check_symmetric
from cljax.spectral.differentiable import is_traced, with_derivative, without_derivative
from cljax.spectral.driver import choose_loop, run_krylov
from cljax.spectral.eigenpairs import Eigenpairs, Status, check_start, num_guards
from cljax.spectral.extreme_sizes import check_memory, check_sizes
from cljax.spectral.goal import CRITERIA, Goal, error_ratios, hidden_ratios, residual_bound
from cljax.spectral.host_basis import HostBasis
from cljax.spectral.host_numbers import lies_near, numbers_on_host, on_device_of
from cljax.spectral.krylov import KrylovState, orthogonality
from cljax.spectral.memory import ALL, Memory, run_layout
from cljax.spectral.probes import kept_vectors, start_vectors
from cljax.spectral.projected import compiled_on_device, namespace, on_host
from cljax.spectral.ritz import asymmetry, ritz_pairs


def extreme_eigenpairs(
    op: LinearOperator,
    key: jax.Array,
    *,
    num_top: int = 1,
    num_bottom: int = 0,
    tol: float = 1e-3,
    max_products: int = 100,
    start: Eigenpairs | None = None,
    check: PyTree | None = None,
    criterion: str = "residual",
    certify: bool = True,
    block_size: int = 1,
    memory: Memory = ALL,
    driver: Any = "auto",
) -> Eigenpairs:
    """The greatest and the least eigenvalues of a symmetric operator, with eigenvectors.

    A small residual proves that an eigenvalue is near, not that it is the extreme one: a random start may hide a more
    extreme pair, with a probability of the order of the relative residual. A cold run is therefore carried on to a
    residual of 1e-6 |θ|, or to the rounding and the error of the products as far as it is not symmetric, whatever the
    tolerance, for a quarter to a half more products than 1e-3 takes.
    On random spectra it then missed about one in ten thousand instead of one in a hundred. An eigenvalue of
    multiplicity above ``block_size`` may appear fewer times than it occurs.

    A warm start multiplies the kept vectors first, then, at each end, what they lack together with the kept guard and a
    check direction. Where a kept pair has changed by more than 0.8 ‖A‖ the spectrum has jumped: the run then asks for
    residuals as small as a cold one does. Its status is ``Status.TRACKED`` all the same, not ``Status.CONVERGED``: kept
    vectors may be eigenvectors still, of a multiple of the operator for one, and so few products cannot show that
    nothing more extreme hides in the rest of the space. A new extreme eigenvector in a random direction is as a
    rule missed at first. The guard is a power iteration that goes on from one warm start to the next, and the run
    follows it where it may become more extreme than what is wanted. Of diagonals of size 1000 with eigenvalues in
    [0, 1] and 2, where a new one of 4 came up, of 40 warm starts with "value" 40, 40, 18 and 0 were wrong at the first
    to the fourth; with 2.5 instead of 4, 40, 40, 40, 31, 8, 1 and 0. Start cold now and then, as ``training.Tracker``
    does.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        num_top: static, how many of the greatest.
        num_bottom: static, how many of the least.
        tol: relative error at which a pair counts as converged.
        max_products: static, most products. In the compiled loop each step reads the whole basis, which
            has a place for every one unless ``memory`` keeps fewer.
        start: None, or what a previous call returned for a nearby operator. With as many pairs as are wanted now, a
            warm start; otherwise its vectors are start vectors like others.
        check: None, or a vector of the operator's space in which a new extreme eigenvector is likely to show, such as
            the gradient, for warm starts. Without ``start`` a run begins with the sum of it and of a random vector of
            equal length, which may save some products: a gradient has much of the greatest eigenvectors of a Hessian.
        criterion: static; "residual": the residual is to be below tol·|θ|. "value": on a warm start without a jump the
            estimate ``value_errors`` is, which takes about half of the products; a cold run asks for the residual,
            since it cannot know yet which Ritz values stand for one eigenvalue, unless ``certify`` is False.
        certify: static; False ends a cold run as soon as the error that ``criterion`` names meets the tolerance, as
            other solvers do, with ``Status.LIKELY``: for the fewest products, where a missed pair does little harm.
        block_size: static, random start vectors of a cold run.
        memory: static, how the vectors are kept: all of them, at most a given number, in bfloat16, or on the host;
            ``spectral.plan`` says what each takes.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" or ``HostLoop`` (a loop of compiled
            steps; with progress and checkpoints), or "auto". Where products take less than a millisecond on a CPU, a
            search inside of a jit of the caller, with ``max_products`` near what it needs, takes a half to a quarter of
            the time of the host loop, and longer to compile.

    Returns:
        The pairs with residuals and status. NaN in the operator gives NaN values, not converged. Values are
        differentiable in what the operator is made of, dθ = vᵀ dA v, where they are simple; nothing else is. A second
        derivative raises NotImplementedError.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, num_top + num_bottom is below 1 or above n,
            ``max_products``, ``memory`` or ``block_size`` do not fit them, ``tol`` is not in (0, 1), ``criterion``
            is not known, ``start`` or ``check`` is of another space, the driver cannot run here, or a checkpoint
            file is broken or that of another run.
        TypeError: if ``op`` is no operator, ``start`` no Eigenpairs, ``memory`` no Memory, ``tol`` no number, ``key``
            no typed key, or an integer argument is traced.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(3), jnp.array([1.0, -3.0, 2.0]))
        >>> pairs = spectral.extreme_eigenpairs(op, jax.random.key(0), num_top=1, num_bottom=1)
        >>> [round(value, 3) for value in pairs.values.tolist()]
        [-3.0, 2.0]

    References:
        Wu and Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, SIMAX 22 (2000); Ruhe,
        Implementation aspects of band Lanczos algorithms, Math. Comp. 33 (1979). Residual bound: Saad, Numerical
        Methods for Large Eigenvalue Problems (2011), corollary 3.4; its square over the gap: theorem 3.8.
    """
    check_symmetric("op", op)
    dimension = tree.size(op.struct)
    num_top, num_bottom, max_products = check_sizes(num_top, num_bottom, max_products, dimension)
    tol = check_tol("tol", tol)
    if criterion not in CRITERIA:
        raise ValueError(f"criterion: expected one of {list(CRITERIA)}, got {criterion!r}")
    block_size = min(check_positive_int("block_size", block_size), dimension)
    check_key("key", key)
    work = tree.work_struct(op.struct)
    if start is not None:
        check_start(start, op.struct)
    if check is not None:
        check_same_struct("check", jax.eval_shape(tree.to_work, check), work)
    start_key, run_key = _two_keys(key)
    op, given = without_derivative(op) if is_traced(op) else op, op
    check = without_derivative(check) if is_traced(check) else check
    check_memory(memory, num_top, num_bottom, 0, dimension)
    chosen = choose_loop(driver, op, key, start, check, memory=memory)
    options: dict[str, Any] = {"num_top": num_top, "num_bottom": num_bottom}
    options |= {"criterion": criterion, "certify": bool(certify)}
    if start is None:
        vectors = start_vectors(start_key, op.struct, block_size, run_layout(op, memory), check)
        guess, goal = None, cold_goal(tol, work, num_cold=block_size, **options)
    else:
        width = min(start.values.shape[0] + start.guard_values.shape[0] + 1, dimension)
        vectors, guess, goal = _warm(start_key, start, check, jnp.asarray(tol), width=width, **options)
    width = jax.tree.leaves(vectors)[0].shape[0]
    memory = check_memory(memory, num_top, num_bottom, width, dimension)
    steps = max_products if memory.basis_size is not None else min(max_products, dimension)
    jumped: Any
    state, jumped = run_krylov(chosen, op, vectors, run_key, steps, goal, guess, memory)
    numbers = dataclasses.replace(state, basis=None)
    if lies_near(state):
        numbers, jumped = numbers_on_host(state), np.asarray(jumped)[()]
    *coefficients, known = _finish(numbers, goal.on_host() if on_host(numbers.matrix) else goal, jumped)
    known = on_device_of(state, known) if on_host(numbers.matrix) else known
    vectors, guards, error = _vectors(state, op.struct, *coefficients)
    if is_traced(given):
        known["values"] = with_derivative(known["values"], vectors, given)
    pairs = Eigenpairs(
        vectors=vectors,
        guards=guards,
        orthogonality=error,
        block_size=block_size if start is None else 1,
        **known,
    )
    return landed(pairs)


def cold_goal(
    tol: Any, work: PyTree, num_top: int, num_bottom: int, criterion: str, num_cold: int, certify: bool = True
) -> Goal:
    """The goal of a run that starts from ``num_cold`` random vectors like ``work``."""
    dtype = jnp.result_type(*jax.tree.leaves(work))
    sizes = {"num_top": num_top, "num_bottom": num_bottom, "num_cold": num_cold}
    bound: Any = (jnp if is_traced(tol) else np).asarray(tol, dtype)
    return Goal(bound, None, None, None, criterion=criterion, certify=certify, **sizes)


@quick_jit(static_argnames=("width", "num_top", "num_bottom", "criterion", "certify"))
def _warm(
    key: jax.Array,
    start: Eigenpairs,
    check: PyTree | None,
    tol: jax.Array,
    width: int,
    num_top: int,
    num_bottom: int,
    criterion: str,
    certify: bool,
) -> tuple[PyTree, jax.Array, Goal]:
    vectors, guess = kept_vectors(key, start, check)
    vectors, guess = jax.tree.map(lambda x: x[:width], (vectors, guess))
    num_pairs, num_kept = num_top + num_bottom, start.values.shape[0]
    tol = tol.astype(guess.dtype)
    lengths = jax.vmap(tree.norm)(start.vectors)
    usable = jnp.isfinite(start.values + lengths) & (lengths > 0)
    warm, previous, sizes = None, None, {"num_cold": num_kept}
    if num_kept == num_pairs:
        warm = jnp.all(usable)
        previous = jnp.where(warm, start.values, 0)
        sizes = {"num_guards": min(start.guard_values.shape[0], width - num_pairs)}
    goal = Goal(tol, previous, warm, jnp.any(usable), num_top, num_bottom, criterion, certify=certify, **sizes)
    return vectors, guess, goal


@compiled_on_device
def _finish(state: KrylovState, goal: Goal, jumped: Any) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Coefficients of the pairs and of their guards in the basis, and what is known of them."""
    xp = namespace(state.matrix)
    pairs = ritz_pairs(state, goal.num_top, goal.num_bottom)
    guards = num_guards(goal.num_top, goal.num_bottom, tree.size(state.vector))
    trusted = goal.trusted(jumped)
    met = error_ratios(pairs, goal, trusted) <= 1
    seen = hidden_ratios(pairs, goal, trusted) <= 1
    limited = goal.tol * xp.abs(pairs.values) < residual_bound(pairs.values, pairs.norm, goal.tol)
    status = xp.where(limited, Status.ROUNDING, Status.CONVERGED)
    if goal.kept is not None:
        status = xp.where(goal.kept, Status.TRACKED, status)
    status = xp.where(met, xp.where(seen, status, Status.LIKELY), Status.BUDGET)
    status = xp.where(xp.isfinite(pairs.residual_norms + pairs.values), status, Status.NOT_FINITE)
    known = {
        "values": pairs.values,
        "residual_norms": pairs.residual_norms,
        "value_errors": pairs.value_errors,
        "status": status.astype(np.int32),
        "num_products": state.num_products,
        "num_breakdowns": state.num_breakdowns,
        "asymmetry": asymmetry(state),
        "jumped": jumped,
        "guard_values": pairs.guard_bounds[:guards],
    }
    return pairs.coefficients, pairs.guard_next[:guards], known


def _vectors(state: KrylovState, struct: PyTree, coefficients: Any, of_guards: Any) -> tuple[PyTree, PyTree, jax.Array]:
    """Vectors with given coefficients and their guards, as the operator takes them; how orthogonal the first are."""
    if on_host(coefficients) and not isinstance(state.basis, HostBasis):
        both = np.concatenate([coefficients, of_guards])
        both = np.pad(both, ((0, 0), (0, state.capacity - both.shape[1])))
        vectors, guards, error = _apart(_combined(state.basis, both, state.vector), len(coefficients))
        return *(tree.place_like(x, struct, leading_axes=1) for x in (vectors, guards)), error
    if isinstance(state.basis, HostBasis):
        rows, others = (state.basis.combine(c) for c in (coefficients, of_guards))
    else:
        rows, others = (_combined(state.basis, c, state.vector) for c in (coefficients, of_guards))
    return _whole(rows, struct), _whole(others, struct), _orthogonality(rows)


def _whole(rows: PyTree, struct: PyTree) -> PyTree:
    """Vectors of a basis in the shapes of the operator's, and in its shardings where they are not split further."""
    vectors = _whole_jit(rows) if isinstance(rows, Rows) else rows
    split = isinstance(rows, Rows) and isinstance(rows.layout, Layout)
    return vectors if split else tree.place_like(vectors, struct, leading_axes=1)


@quick_jit(static_argnames="num")
def _apart(rows: PyTree, num: int) -> tuple[PyTree, PyTree, jax.Array]:
    first, others = jax.tree.map(lambda x: x[:num], rows), jax.tree.map(lambda x: x[num:], rows)
    return tree.whole(first), tree.whole(others), orthogonality(first)


_two_keys = quick_jit(lambda key: tuple(jax.random.split(key)))
_combined = quick_jit(tree.basis_combine)
_whole_jit = quick_jit(tree.whole)
_orthogonality = quick_jit(orthogonality)

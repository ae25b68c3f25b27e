"""Derivatives of stochastic estimates: the mean as a linear function of the operator, all random vectors held fixed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from cljax import tree
from cljax._typing import Matvec, PyTree
from cljax.curvature.base import LinearOperator

Functional = Callable[[Matvec, PyTree, Any], PyTree]
"""``(product, like, state) -> estimate``, unbiased and linear in ``product``; a function of a module.

The mean of the run itself up to rounding, but for a mean that is no linear function of the operator.

``product`` maps vectors in accumulation dtypes, ``like`` has the shapes of one, ``state`` is that of a finished run.
"""


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def with_derivative(functional: Functional, op: LinearOperator, state: Any, mean: PyTree) -> PyTree:
    """The mean of a run, differentiated as ``functional`` of the operator.

    Args:
        functional: takes a product in accumulation dtypes, a pytree with the shapes of a vector, and the state.
        op: symmetric operator.
        state: a finished run.
        mean: its mean.

    Returns:
        ``mean``.
    """
    return mean


@with_derivative.defjvp
def _derivative(functional: Functional, primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
    op, state, mean = primals
    state = jax.lax.stop_gradient(state)

    def of_operator(op: LinearOperator) -> PyTree:
        product, struct = op.linearize(), op.struct

        def multiply(v: PyTree) -> PyTree:
            return tree.rows_like(tree.to_work(product(tree.from_rows(tree.cast_like(v, struct)))), v)

        return functional(multiply, state.vector, state)

    return mean, tree.cast_like(jax.jvp(of_operator, (op,), (tangents[0],))[1], mean)

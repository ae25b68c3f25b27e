"""A product with the convolutions of its program written as this machine has them faster."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from cljax._typing import Matvec, PyTree
from cljax.curvature.row_conv import convolve_by_rows, pays_by_rows

_BODIES = ("jaxpr", "call_jaxpr")
"""Where an operation that runs a program once keeps it."""
_RUN_ONCE = {"jit", "pjit", "remat2", "remat", "checkpoint", "closed_call", "core_call"}


def faster_product(product: Matvec) -> Matvec:
    """``by_rows(product)`` on a CPU that is one device, else the product itself.

    Rows and examples become one axis, along which a batch that is split over devices would not stay so.

    Args:
        product: a callable pytree ``v -> A v``.

    Returns:
        A callable pytree.
    """
    return by_rows(product) if jax.default_backend() == "cpu" and jax.device_count() == 1 else product


def by_rows(product: Matvec) -> Matvec:
    """The same function, to rounding, with convolutions that pay written by rows.

    The derivative of a convolution in its kernel appears in no user's program, only in that of the product. Programs
    inside of loops and branches stay as they are.

    Args:
        product: a callable pytree ``v -> A v``.

    Returns:
        A callable pytree; a call traces ``product`` once more.
    """
    return jax.tree_util.Partial(_run, product)


def as_it_is(product: Matvec) -> Matvec:
    """What ``by_rows`` was given; a function that it did not make, itself."""
    if isinstance(product, jax.tree_util.Partial) and product.func is _run:
        return product.args[0]
    return product


def operations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program, those of programs that it runs once included.

    Args:
        jaxpr: the program, closed or not.

    Yields:
        Equations, in their order.
    """
    for eqn in jaxpr.eqns:
        yield eqn
        for _, body in _bodies(eqn):
            yield from operations(body)


def _run(product: Matvec, v: PyTree) -> PyTree:
    closed, struct = jax.make_jaxpr(lambda product, v: product(v), return_shape=True)(product, v)
    found = _rewritten(closed)(*jax.tree.leaves((product, v)))
    return jax.tree.unflatten(jax.tree.structure(struct), found)


def _rewritten(closed: ClosedJaxpr) -> Any:
    """The program as a function of its flat arguments."""
    if not _any_pays(closed):
        return jaxpr_as_fun(closed)

    def run(*args: Any) -> list[Any]:
        jaxpr = closed.jaxpr
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))
        for eqn in jaxpr.eqns:
            operands = [var.val if isinstance(var, Literal) else values[var] for var in eqn.invars]
            with eqn.ctx.manager:
                values.update(zip(eqn.outvars, _results(eqn, operands), strict=True))
        return [var.val if isinstance(var, Literal) else values[var] for var in jaxpr.outvars]

    return run


def _results(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    if pays_by_rows(eqn):
        return [convolve_by_rows(eqn, operands)]
    params = eqn.params
    for name, body in _bodies(eqn):
        closed = body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
        if _any_pays(closed):
            changed = jax.make_jaxpr(_rewritten(closed))(*closed.in_avals)
            params = params | {name: changed if isinstance(body, ClosedJaxpr) else changed.jaxpr}
    found = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
    return found if eqn.primitive.multiple_results else [found]


def _bodies(eqn: Any) -> list[tuple[str, Any]]:
    once = eqn.primitive.name in _RUN_ONCE
    return [(name, eqn.params[name]) for name in _BODIES if once and name in eqn.params]


def _any_pays(jaxpr: Any) -> bool:
    return any(map(pays_by_rows, operations(jaxpr)))

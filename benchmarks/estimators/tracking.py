"""The top eigenvalue at many points of a training run, each search started from the one before where that can be."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.estimators.base import estimator
from benchmarks.estimators.cljax_ import MOST, MOST_JITTED, gradient, jitted_search, search
from benchmarks.estimators.pyhessian_ import counting, make_hessian
from benchmarks.estimators.request import Request, flat_product
from benchmarks.estimators.torch_operators import seeded
from benchmarks.synthetic import torch_device

_COLD_EVERY = 50


def _ours(warm: bool, certify: bool, jitted: bool = False) -> Any:
    def setup(request: Request) -> Any:
        points = request.points
        ops = [point.op for point in points]
        checks = [gradient(p.case.network.objective, p.case.network.params, p.case.network.batch) for p in points]
        tol, measure = request.tolerance, jitted_search if jitted else search
        options: dict[str, Any] = {"certify": certify, "max_products": MOST_JITTED if jitted else MOST}

        def run(seed: int) -> Any:
            found, pairs = [], None
            keys = jax.random.split(jax.random.key(seed), len(ops))
            for i, (op, check, key) in enumerate(zip(ops, checks, keys, strict=True)):
                start = pairs if warm and i % _COLD_EVERY else None
                pairs = measure(op, key, tol, start, check, **options)
                found.append(float(pairs.values[-1]))
            return np.asarray(found)

        return run

    return setup


_GRADIENT = "the gradient, which training has, is no product and is not timed"
_WARM = f"start the pairs before, check {_GRADIENT}; cold every {_COLD_EVERY}"
_COLD = f"each measurement on its own, from {_GRADIENT}, and a random vector"
_SOONER = "searches that are cold end when the values meet the tolerance, as the others do"
_JITTED = f"inside of jit, of at most {MOST_JITTED} products"
_make = partial(estimator, task="tracked", control="tolerance")
for _name, _warm, _settings in (("warm", True, _WARM), ("cold", False, _COLD)):
    _make(f"cljax, {_name}", settings=_settings)(_ours(_warm, True))
    _make(f"cljax, {_name}, no certificate", settings=f"{_settings}; {_SOONER}")(_ours(_warm, False))
    _make(f"cljax, {_name}, no certificate, jitted", settings=f"{_settings}; {_SOONER}; {_JITTED}")(
        _ours(_warm, False, jitted=True)
    )


def _arpack(begin: str, number: int | None) -> Any:
    def setup(request: Request) -> Any:
        import scipy.sparse.linalg as sla

        points = request.points
        networks = [p.case.network for p in points if begin == "the gradient"]
        starts = [np.asarray(ravel_pytree(gradient(n.objective, n.params, n.batch))[0]) for n in networks]

        def run(seed: int) -> Any:
            found, start = [], request.start(seed)
            for i, point in enumerate(points):
                start = starts[i] if starts else start
                options: dict[str, Any] = {"k": 1, "which": "LA", "tol": request.tolerance, "ncv": number}
                values, vectors = sla.eigsh(point.scipy_operator, v0=start, **options)
                start = vectors[:, 0] if begin == "the vector before" else start
                found.append(values[0])
            return np.asarray(found)

        return run

    return setup


for _name, _begin in (
    ("cold", "random"),
    ("warm", "the vector before"),
    ("from the gradient", "the gradient"),
):
    for _words, _number in (("", None), (", few vectors", 4)):
        estimator(
            f"ARPACK, {_name}{_words}",
            "tracked",
            package="scipy",
            control="tolerance",
            settings=f"eigsh, ncv {_number or 'its default'}, v0 {_begin}",
        )(_arpack(_begin, _number))


@estimator(
    "jax lobpcg_standard, warm", "tracked", package="jax", control="tolerance", settings="tol / 20 n, X the one before"
)
def lobpcg(request: Request) -> Any:
    """A block of one vector."""
    from jax.experimental.sparse.linalg import lobpcg_standard

    points, n = request.points, request.dimension
    tol = np.float32(request.tolerance / (20 * n))

    @jax.jit
    def program(op: Any, X: jax.Array, tol: float) -> Any:
        return lobpcg_standard(jax.vmap(flat_product(op), 1, 1), X, 200, tol)[:2]

    ops = [point.op for point in points]

    def run(seed: int) -> Any:
        found, X = [], jnp.asarray(request.start(seed))[:, None]
        for op in ops:
            values, X = program(op, X, tol)
            found.append(float(values[0]))
        return np.asarray(found)

    return run


@estimator("matfree Lanczos, warm", "tracked", package="matfree", control="budget", settings="v0 the vector before")
def matfree(request: Request) -> Any:
    """So many reorthogonalized steps at each point."""
    from matfree import decomp, eig

    solve = eig.eigh_partial(decomp.tridiag_sym(request.budget, reortho="full"))
    program = jax.jit(lambda op, v: solve(flat_product(op), v))
    ops = [point.op for point in request.points]

    def run(seed: int) -> Any:
        found, v = [], jnp.asarray(request.start(seed))
        for op in ops:
            values, vectors = program(op, v)
            best = int(jnp.argmax(values))
            v = vectors[best]
            found.append(float(values[best]))
        return np.asarray(found)

    return run


@estimator(
    "eigenthings power, warm",
    "tracked",
    package="hessian_eigenthings",
    distribution="hessian-eigenthings",
    control="tolerance",
    settings="power_iteration_one, init the vector before, at most 200 products",
)
def eigenthings(request: Request) -> Any:
    """Its one solver with a warm start."""
    import hessian_eigenthings as peer
    import torch

    from benchmarks.estimators.eigenthings import make_operator

    operators = [make_operator(point) for point in request.points]

    def run(seed: int) -> Any:
        found, init = [], torch.from_numpy(request.start(seed)).to(torch_device())
        for operator in operators:
            value, init, *_ = peer.power_iteration_one(operator, max_iter=200, tol=request.tolerance, init=init)
            found.append(value)
        return np.asarray(found)

    return run


@estimator(
    "PyHessian", "tracked", package="pyhessian", control="tolerance", settings="eigenvalues, cold: it has no other"
)
def pyhessian(request: Request) -> Any:
    """Power iteration from a random vector at each point."""
    points = request.points

    def run() -> Any:
        with counting(request):
            return np.asarray(
                [make_hessian(point).eigenvalues(maxIter=100, tol=request.tolerance)[0][0] for point in points]
            )

    return seeded(run)

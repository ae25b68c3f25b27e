"""One product with a Hessian, a Gauss-Newton matrix or a Fisher matrix: ours and those of PyTorch's peers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.estimators.base import estimator
from benchmarks.estimators.curvlinops_ import make_operator
from benchmarks.estimators.eigenthings import make_operator as make_eigenthings
from benchmarks.estimators.pyhessian_ import make_hessian
from benchmarks.estimators.request import NotApplicableError, Request
from cljax import tree

KINDS = ("hessian", "gauss_newton", "fisher")


def _ours(linearized: bool) -> Any:
    def setup(request: Request) -> Any:
        op = request.op
        v = ravel_pytree(tree.zeros_like(op.struct))[1](jnp.asarray(request.start(0)))
        product = _linearize(op) if linearized else op
        multiply = _apply if linearized else _fresh
        return lambda seed: jax.block_until_ready(_flat(multiply(product, v)))

    return setup


_linearize = jax.jit(lambda op: op.linearize())
_apply = jax.jit(lambda product, v: product(v))
_fresh = jax.jit(lambda op, v: op.linearize()(v))
_flat = jax.jit(lambda x: ravel_pytree(x)[0])

estimator("cljax, in a solver", "peer_products", settings="linearized once, then one jitted program a product")(
    _ours(True)
)
estimator("cljax, alone", "peer_products", settings="one jitted program that linearizes and multiplies")(_ours(False))

_CURVLINOPS = {"hessian": "HessianLinearOperator", "gauss_newton": "GGNLinearOperator", "fisher": "GGNLinearOperator"}


def _curvlinops(compiled: bool) -> Any:
    def setup(request: Request) -> Any:
        import torch

        operator = make_operator(request, _CURVLINOPS[request.kind])
        vector = [x.unsqueeze(-1) for x in request.twin.from_flat(request.start(0))]
        multiply = operator._matmat
        if compiled:
            torch._dynamo.reset()
            vars(operator)["_mp"] = torch.compile(operator._mp)
        return lambda seed: request.twin.to_flat([x.squeeze(-1) for x in multiply(vector)])

    return setup


_PEER = {"package": "curvlinops", "distribution": "curvlinops-for-pytorch"}
estimator("curvlinops", "peer_products", settings="eager; the Fisher matrix of softmax as its GGN", **_PEER)(
    _curvlinops(False)
)
estimator("curvlinops, compiled", "peer_products", settings="torch.compile of its product of a batch", **_PEER)(
    _curvlinops(True)
)


@estimator(
    "eigenthings", "peer_products", package="hessian_eigenthings", distribution="hessian-eigenthings", settings="eager"
)
def eigenthings(request: Request) -> Any:
    """Differentiates twice for each product."""
    import torch

    kind = "hessian" if request.kind == "hessian" else "gauss_newton"
    operator, found = make_eigenthings(request, kind), request.twin
    vector = torch.cat([x.reshape(-1) for x in found.from_flat(request.start(0))])
    return lambda seed: found.to_flat(operator.matvec(vector))


@estimator("PyHessian, kept graph", "peer_products", package="pyhessian", settings="the gradient's graph is kept")
def pyhessian(request: Request) -> Any:
    """Its product inside of a solver."""
    if request.kind != "hessian":
        raise NotApplicableError("has Hessians alone")
    import pyhessian.utils as peer

    hessian, found = make_hessian(request), request.twin
    vector = found.from_flat(request.start(0))
    multiply = request.count(peer.hessian_vector_product)
    return lambda seed: found.to_flat(multiply(hessian.gradsH, hessian.params, vector))


def reference_product(network: Any, kind: str, vector: np.ndarray) -> np.ndarray:
    """The product in float64, the Hessian's by forward over reverse of a plain objective.

    Args:
        network: a ``networks.Network``.
        kind: one of ``KINDS``.
        vector: (n,).

    Returns:
        Shape (n,).
    """
    with jax.enable_x64(True):
        double = network.in_double()
        v = ravel_pytree(double.params)[1](jnp.asarray(vector, jnp.float64))
        if kind == "hessian":
            found = jax.jvp(jax.grad(lambda p: double.objective(p, double.batch)), (double.params,), (v,))[1]
        else:
            scores, pushed = jax.jvp(lambda p: double.apply_fn(p, double.batch.inputs), (double.params,), (v,))
            p = jax.nn.softmax(scores)
            outer = p * (pushed - jnp.sum(p * pushed, -1, keepdims=True)) / scores[..., 0].size
            found = jax.vjp(lambda p: double.apply_fn(p, double.batch.inputs), double.params)[1](outer)[0]
        return np.asarray(ravel_pytree(found)[0])

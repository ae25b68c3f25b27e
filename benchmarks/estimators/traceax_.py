"""traceax, on a lineax operator of the same product, jitted."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.estimators.base import estimator
from benchmarks.estimators.request import Request, check_semidefinite, flat_product

_PEER = {"package": "traceax", "control": "budget"}


def _trace(name: str) -> Any:

    def setup(request: Request) -> Any:
        import lineax
        import traceax

        number = request.budget
        signs = traceax.RademacherSampler(jnp.float32)  # by default its signs are integers, which lineax refuses
        method = getattr(traceax, name)(*([signs] if name.startswith("Hutch") else []))
        tags: tuple[Any, ...] = (lineax.symmetric_tag,)
        if name == "XNysTraceEstimator":
            check_semidefinite(request)
            tags = (lineax.positive_semidefinite_tag,)
        struct = jax.ShapeDtypeStruct((request.dimension,), jnp.float32)

        @jax.jit
        def program(op: Any, key: jax.Array) -> jax.Array:
            return method.estimate(key, lineax.FunctionLinearOperator(flat_product(op), struct, tags), number)[0]

        op = request.op
        return lambda seed: float(program(op, jax.random.key(seed)))

    return setup


estimator("traceax Hutchinson", "trace", settings="random signs, jitted", **_PEER)(_trace("HutchinsonEstimator"))
estimator("traceax Hutch++", "trace", settings="random signs, jitted", **_PEER)(_trace("HutchPlusPlusEstimator"))
estimator("traceax XTrace", "trace", settings="sphere, improved, jitted", **_PEER)(_trace("XTraceEstimator"))
estimator("traceax XNysTrace", "trace", settings="sphere, improved, jitted; semidefinite", **_PEER)(
    _trace("XNysTraceEstimator")
)

"""Whether an operator is what the solvers take it for: the same at each product, linear, symmetric, finite."""

import dataclasses

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._checks import check_key, check_tol
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator, check_is_operator
from cljax.curvature.hessian import Hessian

_GREATEST_TOL = 1e-2


@dataclasses.dataclass(frozen=True)
class OperatorReport:
    """What ``check_operator`` found, as numbers of the host.

    Attributes:
        finite: whether all products are.
        determinism_error: greatest difference between two evaluations of A u, over the greatest entry of |A u|.
        linearity_error: ‖A(−3u) + 3 A u‖ / 3‖A u‖.
        symmetry_error: |<w, A u> − <Aᵀ w, u>| over the greater of ‖A u‖ and ‖Aᵀ w‖, for independent standard
            normal u and w: about ‖A − Aᵀ‖ / ‖A‖ in the Frobenius norm where A is said to be symmetric, and so Aᵀ = A.
        tol: what the errors are compared to.
        num_products: products used.
    """

    finite: bool
    determinism_error: float
    linearity_error: float
    symmetry_error: float
    tol: float
    num_products: int

    @property
    def ok(self) -> bool:
        """Whether nothing was found: an error that is not a number is one."""
        return not self._findings()

    def explain(self) -> str:
        """What was found, with likely causes.

        Returns:
            One line for each finding, or one that says that there is none. Causes are guesses: products do not tell.
        """
        return "\n".join(self._findings()) or (
            f"deterministic, linear, symmetric and finite to {self.tol:.1e} in {self.num_products} products"
        )

    def _findings(self) -> list[str]:
        if not self.finite:
            return [
                "products are not finite; likely causes: parameters or data that are not, a batch whose weights are "
                "all 0, a loss outside of its domain"
            ]
        if not self.determinism_error <= self.tol:
            # the other errors compare products of different operators then
            return [
                f"two evaluations of one product differ by {self.determinism_error:.1e}, relative to its greatest "
                f"entry (tolerance {self.tol:.1e}); likely causes: dropout or other randomness without a fixed key, a "
                "loader that shuffles or augments anew in each pass, batch-norm statistics that each call updates"
            ]
        findings = []
        if not self.linearity_error <= self.tol:
            findings.append(
                f"products are not linear: A(-3u) differs from -3 A u by {self.linearity_error:.1e} (tolerance "
                f"{self.tol:.1e}); likely causes: a product function that is not linear in v, products rounded to "
                "bfloat16 or float16, finite differences"
            )
        if not self.symmetry_error <= self.tol:
            findings.append(
                f"<w, A u> and <A w, u> differ by {self.symmetry_error:.1e} (tolerance {self.tol:.1e}); likely causes: "
                "low matrix-product precision (a model that computes in bfloat16, TF32 or a precision of its own), a "
                "product function that is not symmetric, a wrong custom_vjp, batch statistics that differ between "
                "batches, finite differences"
            )
        return findings


def check_operator(op: LinearOperator, key: jax.Array, *, tol: float | None = None) -> OperatorReport:
    """Check on random vectors that an operator is deterministic, linear, symmetric and finite.

    It uses ``op.mv`` alone, so an operator with state on the host is caught too. What it cannot see: a fixed dropout
    mask, and batch norm that uses the statistics of the batch it is given, are deterministic; their products are those
    of another function than the one of evaluation. An operator that is not symmetric is compared with its ``.T``.

    Args:
        op: an operator.
        key: typed PRNG key of the vectors.
        tol: relative error that passes. None for 64 eps n^(1/4), at most 1e-2, with eps of the coarsest dtype and n
            the number of entries: rounding of sums over √n terms, about the width of a layer of n weights, grows with
            the square root of their number. A Hessian by differences may have four times its estimated error.

    Returns:
        A report of host numbers, from four products: ``.ok``, and ``.explain()`` with likely causes.

    Raises:
        TypeError: if ``op`` is no operator or ``key`` no typed PRNG key.
        ValueError: if ``tol`` is not in (0, 1).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature
        >>> op = curvature.FunctionOperator(lambda v: jnp.cumsum(v), jnp.zeros(50))
        >>> report = curvature.check_operator(op, jax.random.key(0))
        >>> report.ok, report.explain()[:27]
        (False, '<w, A u> and <A w, u> diffe')
    """
    check_is_operator("op", op)
    check_key("key", key)
    u, w = (
        tree.place_like(tree.random_like(k, struct), struct)
        for k, struct in zip(jax.random.split(key), (op.struct, op.out_struct), strict=True)
    )
    tol = _default_tol(op, u) if tol is None else float(check_tol("tol", tol))
    found, again, scaled, back = op.mv(u), op.mv(u), op.mv(_scaled(-3.0, u)), op.T.mv(w)
    finite, *errors = _errors(u, w, found, again, scaled, back)
    determinism, linearity, symmetry = map(float, errors)
    return OperatorReport(bool(finite), determinism, linearity, symmetry, tol, num_products=4)


def _default_tol(op: LinearOperator, u: PyTree) -> float:
    eps = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves((op.struct, op.out_struct)))
    size = max(tree.size(op.struct), tree.size(op.out_struct))
    tol = min(64 * eps * size**0.25, _GREATEST_TOL)
    if isinstance(op, Hessian) and op.method_used == "finite_difference":
        return max(tol, 4 * float(op.error_estimate(u)))
    return tol


_scaled = jax.jit(tree.scale)


@jax.jit
def _errors(
    u: PyTree, w: PyTree, found: PyTree, again: PyTree, scaled: PyTree, back: PyTree
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    found, again, scaled, back = map(tree.to_work, (found, again, scaled, back))

    def greatest(a: PyTree) -> jax.Array:
        return jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(a)]))

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(a == 0, 0, a / b)

    products = jax.tree.leaves((found, again, scaled, back))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in products]))
    determinism = ratio(greatest(tree.sub(again, found)), greatest(found))
    length = tree.norm(found)
    linearity = ratio(tree.norm(tree.axpy(3.0, found, scaled)), 3 * length)
    asymmetry = jnp.abs(tree.vdot(w, found) - tree.vdot(back, u))
    return finite, determinism, linearity, ratio(asymmetry, jnp.maximum(length, tree.norm(back)))

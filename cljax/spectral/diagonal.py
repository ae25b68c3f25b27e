"""Diagonal of an operator by random probes, with a standard error for each entry.

matfree estimates diagonals of flat vectors that are whole on each device from a number of probes fixed beforehand. What
is written here keeps the structure and the sharding of the parameters and stops by itself.
"""

import dataclasses
from typing import Any

import jax

from cljax import tree
from cljax._in_flight import landed
from cljax._layout import Rows
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.diagonal_samples import diagonal_start, entries_functional, entries_mean, take_entries
from cljax.spectral.driver import choose_driver
from cljax.spectral.estimate import Estimate
from cljax.spectral.held_fixed import with_derivative
from cljax.spectral.range_basis import LARGEST_BASIS, LEAST_PROBES, basis_bytes, extend_basis
from cljax.spectral.rounds import Scheme, check_arguments, first_probe, run_rounds
from cljax.spectral.xdiag import keep_image, xdiag_functional, xdiag_mean, xdiag_start

METHODS = ("auto", "hutchinson", "xdiag")
_SCHEMES = {
    "hutchinson": Scheme((take_entries,), entries_mean),
    "xdiag": Scheme((extend_basis, keep_image), xdiag_mean),
}
_FUNCTIONALS: dict[str, Any] = {"hutchinson": entries_functional, "xdiag": xdiag_functional}


def diagonal(
    op: LinearOperator,
    key: jax.Array,
    *,
    method: str = "hutchinson",
    tol: float | None = None,
    max_products: int = 100,
    min_probes: int = 10,
    driver: Any = "auto",
) -> Estimate:
    """Diagonal of a symmetric operator; unbiased for a fixed number of probes.

    "hutchinson" averages z ∘ A z over vectors z of random signs. The error of an entry comes from the rest of its row:
    after N products the standard error of Aᵢᵢ is (Σ_{j≠i} Aᵢⱼ² / N)^½. A diagonal operator is exact from one probe: the
    method for operators that are nearly diagonal, for flat spectra, and where memory is short, as it holds four
    vectors.

    "xdiag" spends half of its products on finding where A is large and averages over the rest, as "xtrace" of ``trace``
    does. Its error follows what is left of the spectrum after the largest max_products / 2 eigenvalues: far smaller
    where they fall fast, as those of networks mostly do. A spectrum that does not fall costs it up to a factor 2, and
    more if the operator is nearly diagonal. It holds max_products vectors: a basis, and its products.

    Under differentiation the mean is a function of the arrays in ``op`` with probes, basis and their number held
    fixed: its gradient is an unbiased estimate of that of the diagonal, at the price of as many products again. The
    standard error has no derivative.

    Args:
        op: symmetric operator on n-dimensional vectors.
        key: typed PRNG key.
        method: "hutchinson"; "xdiag"; or "auto", the second where its vectors take at most 1 GiB, over all devices.
        tol: None to use all products, or the ‖standard_error‖, relative to the ‖mean‖, at which to stop.
        max_products: static, most products; "xdiag" takes 2 for each probe and never more than 2n, "hutchinson" 1.
        min_probes: static, probes before the first look at the standard error, at least 2, and 4 for "xdiag", whose
            first estimates are nearly the same: fewer never converge.
        driver: "compiled" (one program, for accelerators and inside of jit), "host" (a loop of compiled steps), or
            "auto".

    Returns:
        Mean and standard error, pytrees like the operator's vectors in float32 at least, and whether the tolerance was
        met. The estimates that "xdiag" averages are not independent: its standard error allows for that by a factor
        √2, which is more than most spectra need. NaN in the operator gives NaN.

    Raises:
        ValueError: if ``op`` says that it is not symmetric, the method is not known, a number is out of range, or the
            driver cannot run here.
        TypeError: if ``key`` is no typed key or a number is no int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> op = curvature.FunctionOperator(lambda v, d: d * v, jnp.zeros(2), jnp.array([1.0, 3.0]))
        >>> spectral.diagonal(op, jax.random.key(0), method="hutchinson", max_products=2).mean.tolist()
        [1.0, 3.0]

    References:
        Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, Applied Numerical Mathematics 57 (2007),
        section 2, with probes of random signs. Epperly, Tropp and Webber, XTrace: making the most of every sample in
        stochastic trace estimation, SIMAX 45 (2024), on XDiag; here the basis grows probe by probe, and symmetry makes
        the part that is sampled smaller, (I − P) A (I − P) in place of (I − P) A.
    """
    max_products, min_probes = check_arguments(op, key, tol, max_products, min_probes)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {list(METHODS)}, got {method!r}")
    half = max_products // 2
    if method == "auto":
        method = "xdiag" if half >= 2 and 2 * basis_bytes(op, half) <= LARGEST_BASIS else "hutchinson"
    if method == "xdiag" and not half:
        raise ValueError("max_products: expected at least 2 for one probe of 'xdiag', got 1")
    chosen = choose_driver(driver, op, key)
    fixed = jax.lax.stop_gradient(op) if chosen == "compiled" else op
    probe_key = jax.random.split(key, 1)[0]
    vector = first_probe(op, probe_key, "rademacher")
    start: Any
    most = max_products
    if method == "hutchinson":
        start = diagonal_start(vector, probe_key, most)
    else:
        spanning = max(tree.size(op.struct), 2)  # so many probes mostly span the space
        most, min_probes = min(half, spanning), max(min_probes, LEAST_PROBES)
        start = xdiag_start(vector, probe_key, most, tree.is_replicated(vector))
    state, found = run_rounds(chosen, fixed, start, _SCHEMES[method], tol, most, min_probes)
    mean = found.mean
    if chosen == "compiled":
        mean = with_derivative(_FUNCTIONALS[method], op, state, mean)
    mean, error = landed(_from_rows((mean, found.standard_error)))
    return dataclasses.replace(found, mean=mean, standard_error=error)


@quick_jit
def _from_rows(vectors: PyTree) -> PyTree:
    return jax.tree.map(tree.from_rows, vectors, is_leaf=lambda x: isinstance(x, Rows))

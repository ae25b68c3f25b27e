"""How many products a search will take: a bound of Kaniel-Paige-Saad type under assumptions of the caller's."""

import math

from cljax.spectral.goal import min_steps
from cljax.spectral.restart import num_kept


def estimate_products(
    dimension: int, num_top: int, num_bottom: int, tol: float, relative_gap: float, places: int | None = None
) -> int:
    """Products until the residuals meet the tolerance.

    What the start vector has of a wanted eigenvector, 1/√n of its norm on average, grows against all else by the
    Chebyshev polynomial of the degree that the products allow. Restarts make it a product of polynomials of the degree
    that fits between two of them; that they keep more than the wanted vectors, which helps, is left out.

    Args:
        dimension: n.
        num_top: greatest eigenvalues wanted.
        num_bottom: least eigenvalues wanted.
        tol: relative tolerance of the residuals.
        relative_gap: distance from the wanted eigenvalue that is hardest to find to the nearest one that is not wanted,
            over the width of all that are not wanted.
        places: used vectors that the basis can hold, or None for all.

    Returns:
        The estimate, for eigenvalues that are simple.

    References:
        Saad, Numerical Methods for Large Eigenvalue Problems (2011), theorem 6.3.
    """
    num_pairs = num_top + num_bottom
    rate = 2 * math.asinh(math.sqrt(relative_gap))  # acosh(1 + 2 gap), without its rounding
    wanted = math.sqrt(dimension) / tol
    degree = math.ceil(math.acosh(wanted) / rate)
    whole = min(max(degree + num_pairs, min_steps(num_pairs)), dimension)
    if places is None or whole <= places:
        return whole
    kept = sum(num_kept(places, num_top, num_bottom))
    between = places - kept
    growth = max(_log_cosh(between * rate), 1e-300)
    return max(whole, kept + between * math.ceil(math.log(wanted) / growth))


def _log_cosh(x: float) -> float:
    if x < 1:
        return math.log1p(2 * math.sinh(x / 2) ** 2)
    return x + math.log1p(math.exp(-2 * x)) - math.log(2)

"""What a tracker measures, and what it keeps from one measurement to the next."""

import jax

from cljax._pytree import pytree_dataclass, static
from cljax.spectral.eigenpairs import Eigenpairs, Status


@pytree_dataclass
class Spectrum:
    """Extreme eigenvalues at one point of training, without the vectors.

    Attributes:
        values: (k,), ascending, bottom ones first.
        residual_norms: (k,), ‖A v − θ v‖ of each.
        value_errors: (k,), estimate of each value's error, see ``spectral.Eigenpairs``.
        status: (k,) int32, of ``spectral.Status``: whether each is accurate, and how far it is known to be extreme.
        overlaps: (k,), |⟨v, v'⟩| with the vector in the same place at the measurement before; 0 at the first.
        num_products: int32 scalar, products used, those of the check at the first measurement included.
        orthogonality: scalar, greatest entry of |Vᵀ V − I|.
        asymmetry: scalar, greatest |⟨u, A v⟩ − ⟨v, A u⟩| of basis vectors.
        jumped: scalar bool, whether the spectrum had changed too much for a warm start.
        cold: scalar bool, whether it rests on a random start. Else no more extreme eigenvalue is hidden only as far as
            kept vectors and check directions show, see ``spectral.Status.TRACKED``.
        method: of the Hessian's products, see ``curvature.hessian``; empty for other matrices.
    """

    values: jax.Array
    residual_norms: jax.Array
    value_errors: jax.Array
    status: jax.Array
    overlaps: jax.Array
    num_products: jax.Array
    orthogonality: jax.Array
    asymmetry: jax.Array
    jumped: jax.Array
    cold: jax.Array
    method: str = static(default="")

    @property
    def converged(self) -> jax.Array:
        """(k,) bool, see ``spectral.Eigenpairs``; never of a warm start without a jump."""
        return self.status <= Status.ROUNDING

    @property
    def accurate(self) -> jax.Array:
        """(k,) bool: the error is at most the tolerance or the rounding, see ``spectral.Eigenpairs``."""
        return self.status <= Status.LIKELY


@pytree_dataclass
class Record:
    """One measurement; arrays on the device, None for what the tracker does not measure.

    Attributes:
        loss: scalar, the objective on the batch.
        gradient_norm: scalar, norm of its gradient.
        hessian: extreme eigenvalues of its Hessian.
        gauss_newton: greatest eigenvalue of the Gauss-Newton matrix.
        gradient_energy: scalar, mean squared norm of per-example gradients.
        structure_min: scalar, least eigenvalue of the structure matrices.
        structure_max: scalar, greatest eigenvalue of the structure matrices.
        structure_spread: scalar, log(structure_max / structure_min).
    """

    loss: jax.Array
    gradient_norm: jax.Array
    hessian: Spectrum
    gauss_newton: Spectrum | None = None
    gradient_energy: jax.Array | None = None
    structure_min: jax.Array | None = None
    structure_max: jax.Array | None = None
    structure_spread: jax.Array | None = None


@pytree_dataclass
class TrackerState:
    """What a tracker keeps between measurements; a pytree, so that it checkpoints.

    Attributes:
        hessian: eigenpairs of the last measurement, zeros before the first and in places that are not tracked.
        gauss_newton: the same of the Gauss-Newton matrix, or None.
        num_measurements: int32 scalar.
        num_tracked: int32 scalar, top eigenvalues that the next measurement tracks.
    """

    hessian: Eigenpairs
    gauss_newton: Eigenpairs | None
    num_measurements: jax.Array
    num_tracked: jax.Array

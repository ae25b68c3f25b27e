"""The tracker: curvature along training, each measurement warm-started from the one before."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch, as_batch
from cljax._checks import check_inexact_tree, check_key, check_positive_int, check_tol
from cljax._pytree import pytree_dataclass
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.curvature.base import LinearOperator
from cljax.curvature.gauss_newton import gauss_newton
from cljax.curvature.hessian import hessian
from cljax.losses.objective import objective
from cljax.spectral.driver import choose_driver
from cljax.spectral.extremes import Eigenpairs, check_sizes, extreme_eigenpairs
from cljax.theory.gradient_energy import gradient_energy
from cljax.theory.structure import structure_extremes


@pytree_dataclass
class Spectrum:
    """Extreme eigenvalues at one point of training, without the vectors.

    Attributes:
        values: (k,), ascending, bottom ones first.
        residual_norms: (k,), ‖A v − θ v‖ of each.
        converged: (k,) bool.
        num_products: int32 scalar, products used.
        orthogonality: scalar, greatest entry of |Vᵀ V − I|.
    """

    values: jax.Array
    residual_norms: jax.Array
    converged: jax.Array
    num_products: jax.Array
    orthogonality: jax.Array


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
        hessian: eigenpairs of the last measurement, zeros before the first.
        gauss_newton: the same of the Gauss-Newton matrix, or None.
        num_measurements: int32 scalar.
    """

    hessian: Eigenpairs
    gauss_newton: Eigenpairs | None
    num_measurements: jax.Array


@dataclasses.dataclass(frozen=True)
class Tracker:
    """Extreme Hessian eigenvalues, gradient energy and structure-matrix extremes along training.

    It drops into an existing loop: ``state = tracker.init(params)`` once, and
    ``state, record = tracker.measure(state, params, batch, key)`` whenever wanted. Use one batch all along, so that
    records compare. All work is compiled once; the tracker is static and equal by value.

    Attributes:
        apply_fn: ``apply_fn(params, inputs) -> scores``, or None with ``objective_fn``.
        loss: per-example loss, or None with ``objective_fn``.
        objective_fn: ``objective_fn(params, batch) -> scalar`` for code that has no per-example form; then only loss,
            gradient norm and Hessian are measured. See ``from_objective``.
        num_top: greatest Hessian eigenvalues.
        num_bottom: least Hessian eigenvalues.
        tol: relative residual at which an eigenvalue counts as converged.
        max_products: most products for each spectrum.
        microbatch_size: examples differentiated at a time in a product, None for all.
        structure_examples: how many examples of the batch, from its start, have their structure matrices measured;
            None for all, 0 for none.
        measure_gauss_newton: whether the Gauss-Newton matrix is measured.
        driver: see ``spectral.extreme_eigenpairs``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses, training
        >>> tracker = training.Tracker(lambda w, x: x @ w, losses.fenchel_young(losses.squared()), num_bottom=0)
        >>> w, batch = jnp.zeros((2, 1)), cljax.Batch(jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.ones((2, 1)))
        >>> state, record = tracker.measure(tracker.init(w), w, batch, jax.random.key(0))
        >>> record.hessian.values.round(3).tolist()
        [4.5]
    """

    apply_fn: ApplyFn | None
    loss: LossFn | None
    objective_fn: Any = None
    num_top: int = 1
    num_bottom: int = 1
    tol: float = 1e-3
    max_products: int = 100
    microbatch_size: int | None = None
    structure_examples: int | None = 64
    measure_gauss_newton: bool = True
    driver: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked before parameters are known.

        Raises:
            ValueError: if neither a model with a loss nor an objective is given, or both are, or a number is out of
                range.
            TypeError: if a number is no integer.
        """
        model = [fn is not None for fn in (self.apply_fn, self.loss)]
        if any(model) if self.objective_fn is not None else not all(model):
            raise ValueError("Tracker: expected apply_fn with loss, or objective_fn alone; see Tracker.from_objective")
        num_top = check_positive_int("num_top", self.num_top, minimum=0)
        check_positive_int("num_top + num_bottom", num_top + check_positive_int("num_bottom", self.num_bottom, 0))
        check_positive_int("max_products", self.max_products)
        check_tol("tol", self.tol)
        choose_driver(self.driver)
        if self.microbatch_size is not None:
            check_positive_int("microbatch_size", self.microbatch_size)
        if self.structure_examples is not None:
            check_positive_int("structure_examples", self.structure_examples, minimum=0)

    @classmethod
    def from_objective(cls, objective_fn: Any, **options: Any) -> "Tracker":
        """A tracker of the Hessian of a plain objective.

        Args:
            objective_fn: hashable ``objective_fn(params, batch) -> scalar``; ``batch`` may be any pytree of arrays.
            **options: attributes of the tracker.

        Returns:
            A tracker whose records have loss, gradient norm and Hessian.
        """
        return cls(None, None, objective_fn, **options)

    def init(self, params: PyTree) -> TrackerState:
        """State before the first measurement.

        Args:
            params: pytree of floating arrays.

        Returns:
            A pytree of zeros, about (num_top + num_bottom + 1) times the size of ``params``.

        Raises:
            TypeError: if ``params`` has a leaf that is not floating.
            ValueError: if more eigenvalues are asked for than there are parameters, or too few products allowed.
        """
        check_inexact_tree("params", params)
        num_top, num_bottom, _ = check_sizes(self.num_top, self.num_bottom, self.max_products, tree.size(params))
        with_model = self.apply_fn is not None and self.measure_gauss_newton
        gauss = _empty_pairs(params, 1) if with_model else None
        return TrackerState(_empty_pairs(params, num_top + num_bottom), gauss, jnp.zeros((), jnp.int32))

    def measure(self, state: TrackerState, params: PyTree, batch: Any, key: jax.Array) -> tuple[TrackerState, Record]:
        """One measurement.

        Args:
            state: from ``init`` or the measurement before.
            params: pytree of floating arrays.
            batch: a ``cljax.Batch`` (any pytree of arrays with ``from_objective``).
            key: typed PRNG key, a new one each time.

        Returns:
            The state for the next measurement, and the record. NaN in parameters or batch gives NaN.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if the batch is empty.
        """
        check_key("key", key)
        hessian_key, gauss_key = jax.random.split(key)
        objective_fn = self.objective_fn
        if objective_fn is None:
            batch, objective_fn = as_batch(batch), objective(self.apply_fn, self.loss)  # type: ignore[arg-type]
        loss, gradient_norm = _loss_and_gradient_norm(objective_fn, params, batch)
        op = hessian(objective_fn, params, batch, microbatch_size=self.microbatch_size)
        pairs = self._extremes(op, hessian_key, state.hessian, self.num_top, self.num_bottom)
        gauss, energy, structure = None, None, None
        if self.apply_fn is not None and self.loss is not None:
            if state.gauss_newton is not None:
                size = self.microbatch_size
                gauss_op = gauss_newton(self.apply_fn, self.loss, params, batch, microbatch_size=size)
                gauss = self._extremes(gauss_op, gauss_key, state.gauss_newton, 1, 0)
            energy = gradient_energy(self.apply_fn, self.loss, params, batch)
            if self.structure_examples != 0:
                part: Batch = jax.tree.map(lambda x: x[: self.structure_examples], batch)
                structure = structure_extremes(self.apply_fn, self.loss, params, part)
        record = Record(
            loss,
            gradient_norm,
            _spectrum(pairs),
            None if gauss is None else _spectrum(gauss),
            energy,
            None if structure is None else structure.lambda_min,
            None if structure is None else structure.lambda_max,
            None if structure is None else structure.spread,
        )
        return TrackerState(pairs, gauss, state.num_measurements + 1), record

    def _extremes(
        self, op: LinearOperator, key: jax.Array, start: Eigenpairs, num_top: int, num_bottom: int
    ) -> Eigenpairs:
        options: dict[str, Any] = {"tol": self.tol, "max_products": self.max_products, "driver": self.driver}
        return extreme_eigenpairs(op, key, num_top=num_top, num_bottom=num_bottom, start=start, **options)


def _empty_pairs(params: PyTree, num_pairs: int) -> Eigenpairs:
    like = jax.eval_shape(tree.to_work, params)
    dtype = jnp.result_type(*jax.tree.leaves(like))
    vectors = jax.tree.map(lambda x: jnp.zeros((num_pairs, *x.shape), x.dtype), like)
    zeros = jnp.zeros(num_pairs, dtype)
    return Eigenpairs(zeros, vectors, zeros, jnp.zeros(num_pairs, bool), jnp.zeros((), jnp.int32), jnp.zeros((), dtype))


def _spectrum(pairs: Eigenpairs) -> Spectrum:
    return Spectrum(pairs.values, pairs.residual_norms, pairs.converged, pairs.num_products, pairs.orthogonality)


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient_norm(objective_fn: Any, params: PyTree, batch: Any) -> tuple[jax.Array, jax.Array]:
    loss, gradient = jax.value_and_grad(objective_fn)(params, batch)
    return loss, tree.norm(gradient)

"""The tracker: curvature along training, each measurement warm-started from the one before."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import as_batch, first_examples
from cljax._checks import check_inexact_tree, check_key, check_positive_int, check_tol
from cljax._in_flight import landed
from cljax._typing import ApplyFn, LossFn, PyTree
from cljax.curvature.base import LinearOperator
from cljax.curvature.checks import check_operator
from cljax.curvature.diagonal import precondition, shift
from cljax.curvature.gauss_newton import gauss_newton
from cljax.curvature.hessian import hessian
from cljax.losses.objective import objective
from cljax.spectral.driver import choose_driver
from cljax.spectral.eigenpairs import Eigenpairs, empty_pairs, num_guards, place_pairs
from cljax.spectral.extreme_sizes import check_memory, check_sizes
from cljax.spectral.extremes import extreme_eigenpairs
from cljax.spectral.goal import CRITERIA
from cljax.spectral.memory import Memory
from cljax.theory.gradient_energy import gradient_energy
from cljax.theory.structure import structure_extremes
from cljax.training.record import Record, Spectrum, TrackerState
from cljax.training.tracked_set import aligned, is_due, next_num_top, put_tracked, start_unless, take_tracked


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
        max_top: None, or up to how many top eigenvalues are tracked where ``measure`` is given a threshold: twice as
            many where all of them are above it, half where fewer than half are, never fewer than ``num_top``.
        tol: relative error at which an eigenvalue counts as converged.
        criterion: which error, "value" or "residual", see ``spectral.extreme_eigenpairs``.
        max_products: most products for each spectrum.
        cold_every: every how many measurements one starts cold, so that an eigenvalue that warm starts have missed is
            found then at the latest; about ten products more than a warm start.
        weight_decay: λ of a penalty λ/2 ‖θ‖² whose Hessian, λ I, is added to the matrices tracked; 0 for the curvature
            of the loss alone. Loss and gradient in the record are without.
        basis_size: most vectors kept during a measurement, None for as many as there are products.
        sharded_basis: spread the vectors of a measurement, and those kept between measurements, over all
            devices of the mesh on which the parameters lie, see ``spectral.Memory``.
        microbatch_size: examples differentiated at a time in a product, None for all.
        structure_examples: how many examples of the batch, from its start, have their structure matrices measured;
            None for all, 0 for none. Models of sequences have none: an example's would be (T K, T K).
        measure_gauss_newton: whether the Gauss-Newton matrix is measured.
        check_operator: whether the first measurement checks, with four more Hessian products, that the Hessian is
            deterministic, linear and symmetric: dropout, batch-norm statistics and low precision are caught there.
            Inside of jit nothing is checked.
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
    max_top: int | None = None
    tol: float = 1e-3
    criterion: str = "value"
    max_products: int = 100
    cold_every: int = 50
    weight_decay: float = 0.0
    basis_size: int | None = None
    sharded_basis: bool = False
    microbatch_size: int | None = None
    structure_examples: int | None = 64
    measure_gauss_newton: bool = True
    check_operator: bool = True
    driver: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked before parameters are known.

        Raises:
            ValueError: if neither a model with a loss nor an objective is given, or both are, or a number is out of
                range.
            TypeError: if a number is no integer or the objective no function.
        """
        if self.objective_fn is not None and not callable(self.objective_fn):
            raise TypeError(f"objective_fn: expected a function, got {type(self.objective_fn).__name__}")
        model = [fn is not None for fn in (self.apply_fn, self.loss)]
        if any(model) if self.objective_fn is not None else not all(model):
            raise ValueError("Tracker: expected apply_fn with loss, or objective_fn alone; see Tracker.from_objective")
        num_top = check_positive_int("num_top", self.num_top, minimum=0)
        check_positive_int("num_top + num_bottom", num_top + check_positive_int("num_bottom", self.num_bottom, 0))
        if self.max_top is not None:
            check_positive_int("max_top", self.max_top, max(num_top, 1))
        check_positive_int("max_products", self.max_products)
        check_positive_int("cold_every", self.cold_every)
        check_tol("tol", self.tol)
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay: expected a finite number of at least 0, got {self.weight_decay}")
        choose_driver(self.driver)
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion: expected one of {list(CRITERIA)}, got {self.criterion!r}")
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
            ValueError: if more eigenvalues are asked for than there are parameters, or too few products or vectors
                allowed.
        """
        check_inexact_tree("params", params)
        places = self.num_top if self.max_top is None else self.max_top
        size = tree.size(params)
        check_sizes(places, self.num_bottom, self.max_products, size)
        kept = places + self.num_bottom + num_guards(places, self.num_bottom, size)
        check_memory(Memory(self.basis_size), places, self.num_bottom, min(kept + 1, size), size)
        with_model = self.apply_fn is not None and self.measure_gauss_newton
        gauss = empty_pairs(params, 1, 0, self._memory) if with_model else None
        tracked = jnp.asarray(self.num_top, jnp.int32)
        pairs = empty_pairs(params, places, self.num_bottom, self._memory)
        return TrackerState(pairs, gauss, jnp.zeros((), jnp.int32), tracked)

    def measure(
        self,
        state: TrackerState,
        params: PyTree,
        batch: Any,
        key: jax.Array,
        *,
        preconditioner: PyTree | None = None,
        threshold: float | None = None,
    ) -> tuple[TrackerState, Record]:
        """One measurement.

        Args:
            state: from ``init`` or the measurement before.
            params: pytree of floating arrays.
            batch: a ``cljax.Batch`` (any pytree of arrays with ``from_objective``).
            key: typed PRNG key, a new one each time.
            preconditioner: None, or the positive diagonal P of an adaptive optimizer, a pytree like ``params`` (see
                ``training.preconditioner``): then the Hessian tracked is P^-1/2 H P^-1/2, as it decides on stability.
            threshold: None, or the value above which all eigenvalues are to be tracked, such as 2 / learning rate;
                needs ``max_top``. Not inside of jit.

        Returns:
            The state for the next measurement, and the record. NaN in parameters or batch gives NaN. The vectors in
            the state have the signs of those before.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if the batch is empty, ``threshold`` is given without ``max_top``, ``max_top`` inside of jit, or
                the first measurement finds that the Hessian's products are not
                deterministic or not symmetric.
        """
        check_key("key", key)
        if threshold is not None and self.max_top is None:
            raise ValueError(f"threshold: expected a tracker with max_top, got {threshold} without; give max_top")
        if self.max_top is not None and isinstance(state.num_tracked, jax.core.Tracer):
            raise ValueError("max_top: expected None inside of jit, where shapes are fixed; measure outside of jit")
        hessian_key, gauss_key, probe_key = jax.random.split(key, 3)
        objective_fn = self.objective_fn
        if objective_fn is None:
            batch, objective_fn = as_batch(batch), objective(self.apply_fn, self.loss)  # type: ignore[arg-type]
        loss, gradient, gradient_norm = landed(_loss_and_gradient(objective_fn, params, batch))
        product = hessian(objective_fn, params, batch, microbatch_size=self.microbatch_size)
        op = self._decayed(product)
        if preconditioner is not None:
            op = precondition(op, preconditioner)
        num_checks = self._check_once(op, state, probe_key)
        num_top = self.num_top if self.max_top is None else int(state.num_tracked)
        start = take_tracked(state.hessian, num_top, self.num_bottom)
        cold = is_due(state.num_measurements, self.cold_every)
        pairs, found = self._extremes(op, hessian_key, start, gradient, num_top, self.num_bottom, cold)
        number = found.num_products + num_checks
        found = dataclasses.replace(found, num_products=number, method=product.method_used)
        gauss, gauss_found, energy, structure = None, None, None, None
        if self.apply_fn is not None and self.loss is not None:
            if state.gauss_newton is not None:
                size = self.microbatch_size
                gauss_op = self._decayed(gauss_newton(self.apply_fn, self.loss, params, batch, microbatch_size=size))
                gauss, gauss_found = self._extremes(gauss_op, gauss_key, state.gauss_newton, gradient, 1, 0, cold)
            energy = landed(gradient_energy(self.apply_fn, self.loss, params, batch))
            scores = jax.eval_shape(self.apply_fn, params, batch.inputs)
            if self.structure_examples != 0 and len(scores.shape) == 2:
                part = first_examples(batch, self.structure_examples)
                structure = landed(structure_extremes(self.apply_fn, self.loss, params, part))
        record = Record(
            loss,
            gradient_norm,
            found,
            gauss_found,
            energy,
            None if structure is None else structure.lambda_min,
            None if structure is None else structure.lambda_max,
            None if structure is None else structure.spread,
        )
        tracked, places = state.num_tracked, state.hessian.values.shape[0] - self.num_bottom
        if threshold is not None and self.max_top is not None:
            most = next_num_top(pairs.values[self.num_bottom :], threshold, num_top, self.num_top, self.max_top)
            tracked = jnp.full_like(tracked, most)  # on the same devices
        kept = landed(place_pairs(put_tracked(pairs, num_top, self.num_bottom, places), op.struct, self._memory))
        return TrackerState(kept, gauss, state.num_measurements + 1, tracked), record

    @property
    def _memory(self) -> Memory:
        return Memory(self.basis_size, sharded=self.sharded_basis)

    def _decayed(self, op: LinearOperator) -> LinearOperator:
        return shift(op, self.weight_decay) if self.weight_decay else op

    def _check_once(self, op: LinearOperator, state: TrackerState, key: jax.Array) -> int:
        count = state.num_measurements
        if not self.check_operator or isinstance(count, jax.core.Tracer) or int(count) > 0:
            return 0
        report = check_operator(op, key)
        if report.finite and not report.ok:
            raise ValueError(f"objective: {report.explain()}")
        return report.num_products

    def _extremes(
        self,
        op: LinearOperator,
        key: jax.Array,
        start: Eigenpairs,
        check: PyTree,
        num_top: int,
        num_bottom: int,
        cold: jax.Array,
    ) -> tuple[Eigenpairs, Spectrum]:
        pairs = extreme_eigenpairs(
            op,
            key,
            num_top=num_top,
            num_bottom=num_bottom,
            tol=self.tol,
            max_products=self.max_products,
            start=start_unless(cold, start),
            check=check,
            criterion=self.criterion,
            memory=self._memory,
            driver=self.driver,
        )
        pairs, found = aligned(pairs, start, cold)
        return place_pairs(pairs, op.struct, self._memory), found


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient(objective_fn: Any, params: PyTree, batch: Any) -> tuple[jax.Array, PyTree, jax.Array]:
    loss, gradient = jax.value_and_grad(objective_fn)(params, batch)
    return loss, gradient, tree.norm(gradient)

"""A run put together from its configuration: data, model, optimizer, tracker, devices."""

import ast
import dataclasses
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from cljax import losses
from cljax._batch import Batch
from cljax._pytree import pytree_dataclass
from cljax.parallel.mesh import batch_rows, data_mesh, make_mesh, num_shares, replicate, shard_batch
from cljax.parallel.rules import shard_params
from cljax.training.batches import Batches, padded_batch
from cljax.training.config import RunConfig
from cljax.training.datasets import Dataset, load_dataset
from cljax.training.evaluation import make_eval_batches
from cljax.training.models import create_model
from cljax.training.optimizer import learning_rate_schedule, make_optimizer
from cljax.training.record import TrackerState
from cljax.training.step import TrainState, init_state, train_step
from cljax.training.tracker import Tracker

_LOSSES = {
    "shannon": losses.shannon,
    "squared": losses.squared,
    "bernoulli": losses.bernoulli,
    "sparsemax": losses.sparsemax,
    "poisson": losses.poisson,
}


@pytree_dataclass
class RunState:
    """Everything that changes during a run; what a checkpoint holds.

    Attributes:
        train: parameters, optimizer state and step; the step is also the position in the data.
        tracker: what the tracker keeps.
        key: typed PRNG key of the measurements.
    """

    train: TrainState
    tracker: TrackerState
    key: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What stays the same during a run.

    Attributes:
        config: the configuration.
        dataset: the data.
        apply_fn: the model.
        loss: per-example loss.
        tracker: measures curvature.
        schedule: learning rate of a step.
        batches: what this process reads of the batch of a step, on the host.
        curvature_batch: the examples on which curvature is measured.
        train_eval: batches for training loss and accuracy.
        test_eval: batches for test loss and accuracy.
        mesh: the devices.
        step_fn: jitted ``(train_state, batch) -> train_state``.
    """

    config: RunConfig
    dataset: Dataset
    apply_fn: Any
    loss: losses.FenchelYoungLoss
    tracker: Tracker
    schedule: optax.Schedule
    batches: Batches
    curvature_batch: Batch
    train_eval: list[Batch]
    test_eval: list[Batch]
    mesh: Any
    step_fn: Any

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know: how the data differ from the official set, what is not measured."""
        if self.dataset.train_targets.ndim == 1 or not self.config.structure_examples:
            return self.dataset.notes
        return (
            *self.dataset.notes,
            "structure matrices are not measured: a sequence's would have a row a token and score",
        )

    def put(self, batch: Batch) -> Batch:
        """The rows of a batch that were read here, on the devices."""
        return shard_batch(batch, self.mesh)


def make_run(config: RunConfig) -> tuple[Run, RunState]:
    """Build everything a configuration names; reads data, compiles nothing.

    Args:
        config: the configuration.

    Returns:
        The run and its state before the first step.

    Raises:
        ValueError: if a name is not known, an option is wrong or a data file is missing or broken.
    """
    dataset = load_dataset(
        config.dataset,
        config.data_dir,
        num_train=config.num_train,
        num_test=config.num_test,
        seed=config.seed,
        context=config.context,
    )
    mesh = _make_mesh(config)
    model_key, run_key = jax.random.split(jax.random.key(config.seed))
    options = parse_options(config.model_option)
    model = create_model(config.model, model_key, dataset.input_shape, dataset.num_classes, **options)
    loss = losses.fenchel_young(_LOSSES[config.loss]())
    tracker = Tracker(
        model.apply_fn,
        loss,
        num_top=config.num_top,
        num_bottom=config.num_bottom,
        max_top=None if config.track_above is None else config.max_top,
        tol=config.tol,
        criterion=config.criterion,
        basis_size=config.basis_size,
        sharded_basis=config.sharded_basis,
        max_products=config.max_products,
        weight_decay=config.tracked_decay,
        microbatch_size=config.microbatch_size,
        structure_examples=config.structure_examples,
    )
    optimizer = make_optimizer(config)
    inputs, targets, weight = dataset.train_inputs, dataset.train_targets, dataset.train_weight
    num_curvature = min(config.measure_examples, len(targets))
    shares = num_shares(mesh)
    padded = -(-num_curvature // shares) * shares
    first = None if weight is None else weight[:num_curvature]
    rows_fn = partial(batch_rows, mesh=mesh)
    curvature_batch = padded_batch(inputs[:num_curvature], targets[:num_curvature], padded, first, rows_fn)
    params = shard_params(model.params, mesh, config.shard)
    state = RunState(init_state(params, optimizer), tracker.init(params), run_key)
    state = jax.tree.map(lambda x: x if _is_on(mesh, x) else replicate(x, mesh), state)
    run = Run(
        config=config,
        dataset=dataset,
        apply_fn=model.apply_fn,
        loss=loss,
        tracker=tracker,
        schedule=jax.jit(learning_rate_schedule(config)),
        batches=Batches(inputs, targets, config.batch_size, config.seed, shares, weight, rows_fn),
        curvature_batch=shard_batch(curvature_batch, mesh),
        train_eval=make_eval_batches(inputs, targets, config.eval_examples, mesh, weight),
        test_eval=make_eval_batches(
            dataset.test_inputs, dataset.test_targets, config.eval_examples, mesh, dataset.test_weight
        ),
        mesh=mesh,
        step_fn=jax.jit(
            partial(train_step, objective=losses.objective(model.apply_fn, loss), optimizer=optimizer),
            donate_argnums=0,
            out_shardings=jax.tree.map(lambda x: x.sharding, state.train),
        ),
    )
    return run, state


def _make_mesh(config: RunConfig) -> Mesh:
    devices = data_mesh(config.num_devices)
    return devices if config.mesh is None else make_mesh(config.mesh, devices=list(devices.devices.flat))


def _is_on(mesh: Mesh, x: jax.Array) -> bool:
    return isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh


def parse_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Options of a model from NAME=VALUE pairs.

    Args:
        pairs: for example ``("width=16", "activation=relu", "hidden=(64, 64)")``.

    Returns:
        Names with Python literals, or strings where the value is no literal.

    Raises:
        ValueError: if a pair has no "=".
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"model_option: expected NAME=VALUE, got {pair!r}; for example width=16")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options

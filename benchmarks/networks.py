"""Networks that the suite trains itself, as they are at the start, in the middle and at the end of training."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Case, Reference
from benchmarks.references import cached, operator_reference, reference_of
from cljax import Batch, curvature, losses, tree
from cljax._registry import lookup
from cljax._typing import PyTree
from cljax.training.datasets import load_dataset
from cljax.training.models import ModelFn, create_model

STAGES = ("init", "mid", "end")
LOSSES = {"shannon": losses.shannon, "squared": losses.squared}


@dataclasses.dataclass(frozen=True)
class Spec:
    """What decides a trained network.

    Attributes:
        model: name of the model, see ``cljax.training.models``.
        options: of the model, as pairs.
        dataset: "digits" (in the package), "text" (the licence of this project), "random" (normal inputs and random
            labels of ten classes, shape ``input_shape``), or another of cljax, whose files are then needed.
        num_examples: in the batch whose Hessian it is.
        loss: regularizer of the Fenchel-Young loss, of ``LOSSES``.
        num_steps: of SGD with momentum 0.9, to the end; the middle is a quarter of it.
        batch_size: examples a step.
        learning_rate: constant.
        context: characters of an example of text.
        input_shape: of "random" data.
        seed: of weights and batches.
    """

    model: str
    options: tuple[tuple[str, Any], ...] = ()
    dataset: str = "digits"
    num_examples: int = 512
    loss: str = "shannon"
    num_steps: int = 400
    batch_size: int = 64
    learning_rate: float = 0.05
    context: int = 16
    input_shape: tuple[int, ...] = ()
    seed: int = 0


_VIT = (("dim", 12), ("depth", 1), ("heads", 2), ("patch", 4))
_CHARACTERS = (("depth", 1), ("width", 12), ("heads", 2))

NETWORKS: dict[str, dict[str, Spec]] = {
    "linear": {
        "tiny": Spec("mlp", (("hidden", ()),), num_examples=32, loss="squared", num_steps=8),
        "small": Spec("mlp", (("hidden", ()),), loss="squared", num_steps=100, learning_rate=0.005),
    },
    "logistic": {
        "tiny": Spec("mlp", (("hidden", ()),), num_examples=32, num_steps=8),
        "small": Spec("mlp", (("hidden", ()),), num_steps=100),
    },
    "mlp": {
        "tiny": Spec("mlp", (("hidden", (4,)),), num_examples=32, num_steps=8),
        "small": Spec("mlp", (("hidden", (32,)),)),
        "full": Spec("mlp", (("hidden", (512, 512)),), "mnist", 2048, num_steps=2000),
    },
    "lenet": {
        "tiny": Spec("lenet", num_examples=8, num_steps=2),
        "small": Spec("lenet", (), "mnist", 128),
        "full": Spec("lenet", (), "mnist", 4096, num_steps=2000),
    },
    "vit": {
        "tiny": Spec("vit", (("dim", 4), ("depth", 1), ("heads", 1), ("patch", 4)), num_examples=8, num_steps=2),
        "small": Spec("vit", _VIT, num_steps=800),
        "full": Spec("vit", (("dim", 192), ("depth", 6), ("heads", 6)), "mnist", 512, num_steps=2000),
    },
    "transformer": {
        "tiny": Spec("transformer", (("depth", 1), ("width", 4), ("heads", 1)), "text", 4, num_steps=2, context=8),
        "small": Spec("transformer", _CHARACTERS, "text", 16, num_steps=800, batch_size=16),
        "full": Spec(
            "transformer", (("depth", 6), ("width", 384), ("heads", 6)), "text", 64, num_steps=1000, context=128
        ),
    },
    "resnet18": {
        "tiny": Spec("resnet18", (("width", 2),), num_examples=2, num_steps=1, batch_size=2),
        "small": Spec("resnet18", (("width", 4),), num_examples=64, num_steps=60, batch_size=32),
        "full": Spec("resnet18", (), "cifar10", 512, num_steps=500, batch_size=128),
    },
}
"""Networks by name and size; linear and logistic regression have closed forms, and no larger size."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network at some parameters, with a batch.

    Attributes:
        spec: what it was made of.
        apply_fn: ``apply_fn(params, inputs) -> scores``.
        loss: per-example loss.
        params: parameters.
        batch: inputs and integer targets.
    """

    spec: Spec
    apply_fn: ModelFn
    loss: losses.FenchelYoungLoss
    params: PyTree
    batch: Batch

    @property
    def objective(self) -> losses.Objective:
        """The mean loss, as a function of parameters and batch."""
        return losses.objective(self.apply_fn, self.loss)

    @property
    def hessian(self) -> curvature.LinearOperator:
        """The Hessian of the mean loss."""
        return curvature.hessian(self.objective, self.params, self.batch)

    def operator(self, kind: str) -> curvature.LinearOperator:
        """A curvature matrix of the mean loss.

        Args:
            kind: "hessian", "gauss_newton", or "fisher", the exact one, which for softmax is the Gauss-Newton matrix.

        Returns:
            The operator.
        """
        if kind == "hessian":
            return self.hessian
        make = {"gauss_newton": curvature.gauss_newton, "fisher": curvature.fisher}[kind]
        return make(self.apply_fn, self.loss, self.params, self.batch)

    def in_double(self) -> "Network":
        """The same in float64; only while that is on."""
        params, inputs = (jax.tree.map(_to_double, x) for x in (self.params, self.batch.inputs))
        return dataclasses.replace(self, params=params, batch=Batch(inputs, self.batch.targets))


def _to_double(x: Any) -> jax.Array:
    return jnp.asarray(np.asarray(x), jnp.float64 if jnp.issubdtype(x.dtype, jnp.floating) else None)


def load(spec: Spec) -> tuple[ModelFn, losses.FenchelYoungLoss, PyTree, np.ndarray, np.ndarray]:
    """Model, loss, initial parameters and training data of a network.

    Args:
        spec: what decides it.

    Returns:
        apply_fn, loss, parameters, inputs, targets.
    """
    if spec.dataset == "random":
        draw = np.random.default_rng(spec.seed)
        inputs = draw.standard_normal((spec.num_examples, *spec.input_shape)).astype(np.float32)
        return *_model(spec, spec.input_shape, 10), inputs, draw.integers(0, 10, spec.num_examples).astype(np.int32)
    folder = str(pathlib.Path(__file__).parent.parent / "LICENSE") if spec.dataset == "text" else None
    context = spec.context if spec.dataset == "text" else None
    data = load_dataset(spec.dataset, folder, seed=spec.seed, context=context)
    return *_model(spec, data.input_shape, data.num_classes), data.train_inputs, data.train_targets


def _model(spec: Spec, input_shape: Any, num_classes: int) -> tuple[ModelFn, losses.FenchelYoungLoss, PyTree]:
    model = create_model(spec.model, jax.random.key(spec.seed), input_shape, num_classes, **dict(spec.options))
    return model.apply_fn, losses.fenchel_young(LOSSES[spec.loss]()), model.params


def trajectory(spec: Spec, steps: tuple[int, ...]) -> list[Network]:
    """The network after so many steps of training, from a file where it has been trained before.

    Args:
        spec: what decides it.
        steps: ascending numbers of steps.

    Returns:
        One network for each number.
    """
    apply_fn, loss, params, inputs, targets = load(spec)
    leaves, treedef = jax.tree.flatten(params)
    batch = Batch(jnp.asarray(inputs[: spec.num_examples]), jnp.asarray(targets[: spec.num_examples]))

    def compute() -> dict[str, np.ndarray]:
        found = _train(spec, losses.objective(apply_fn, loss), params, inputs, targets, steps)
        return {f"{step}-{i}": leaf for step, tree_ in found.items() for i, leaf in enumerate(jax.tree.leaves(tree_))}

    saved = cached({"training": dataclasses.asdict(spec), "steps": steps}, compute)
    found = [treedef.unflatten([jnp.asarray(saved[f"{step}-{i}"]) for i in range(len(leaves))]) for step in steps]
    return [Network(spec, apply_fn, loss, params, batch) for params in found]


def _train(spec: Spec, objective: Any, params: PyTree, inputs: Any, targets: Any, steps: tuple[int, ...]) -> Any:
    optimizer = optax.sgd(spec.learning_rate, momentum=0.9)
    state = optimizer.init(params)
    draw = np.random.default_rng(spec.seed)

    @jax.jit
    def advance(params: PyTree, state: Any, batch: Batch) -> Any:
        updates, state = optimizer.update(jax.grad(objective)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    found: dict[int, Any] = {}
    for step in range(steps[-1] + 1):
        if step in steps:
            found[step] = jax.tree.map(np.asarray, params)
        chosen = draw.choice(len(targets), min(spec.batch_size, len(targets)), replace=False)
        params, state = advance(params, state, Batch(jnp.asarray(inputs[chosen]), jnp.asarray(targets[chosen])))
    return found


def network_case(name: str, size: str, stage: str = "end") -> Case:
    """The Hessian of a network at a stage of training.

    Args:
        name: one of ``NETWORKS``.
        size: "tiny", "small" or "full".
        stage: one of ``STAGES``.

    Returns:
        The case.
    """
    sizes = lookup("network", NETWORKS, name)
    spec = lookup("size", sizes, size)
    lookup("stage", dict.fromkeys(STAGES), stage)
    steps = (0, spec.num_steps // 4, spec.num_steps)
    network = trajectory(spec, steps)[STAGES.index(stage)]
    label = name if name in {"linear", "logistic"} else f"{name} {stage}"
    return as_case(network, label, stage)


def as_case(network: Network, label: str, stage: Any) -> Case:
    """The Hessian of a network as a case.

    Args:
        network: a network.
        label: what results call it.
        stage: where in training, for the results and the cache.

    Returns:
        The case.
    """
    config = dataclasses.asdict(network.spec) | {"stage": stage, "dimension": tree.size(network.params)}
    config["options"] = [list(pair) for pair in network.spec.options]
    find = closed_form if network.spec.model == "mlp" and not dict(network.spec.options)["hidden"] else dense_form
    return Case(label, config, network.hessian, lambda: find(network, config), network)


def dense_form(network: Network, config: Any) -> Reference:
    """The reference of any network: from its Hessian in float64."""
    return operator_reference(lambda: network.in_double().hessian, config)


def closed_form(network: Network, _: Any) -> Reference:
    """The reference of a linear model, without any differentiation: mean of H ⊗ x xᵀ, H the loss's own Hessian.

    H is I for the squared loss and diag p − p pᵀ for softmax; x is the input with a 1 before it for the bias.

    Args:
        network: a linear or logistic regression.

    Returns:
        The reference.
    """
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), network.params)["head"]
    x = np.asarray(network.batch.inputs, np.float64).reshape(network.batch.num_examples, -1)
    scores = x @ params["kernel"] + params["bias"]
    n, k = scores.shape
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    H = np.stack([np.eye(k)] * n) if network.spec.loss == "squared" else np.einsum("ni,ij->nij", p, np.eye(k))
    H = H if network.spec.loss == "squared" else H - p[:, :, None] * p[:, None]
    x = np.concatenate([np.ones((n, 1)), x], axis=1)  # leaves in the order bias, kernel
    matrix = np.einsum("nij,na,nb->aibj", H, x, x, optimize=True).reshape(x.shape[1] * k, -1) / n
    return reference_of(np.linalg.eigvalsh(matrix), np.diag(matrix).copy(), "closed form in float64")

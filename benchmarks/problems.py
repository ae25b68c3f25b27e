"""The networks that benchmarks run on, with synthetic data from a fixed seed and the softmax Fenchel-Young loss."""

import dataclasses
from typing import Any

import jax

from cljax import Batch, losses
from cljax._checks import check_positive_int
from cljax._registry import lookup
from cljax._typing import PyTree
from cljax.training.models import ModelFn, create_model, num_params

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a network and its batch are.

    Attributes:
        batch_size: examples.
        input_shape: shape (H, W, C) of one input.
        options: of the model, see ``cljax.training.models``.
    """

    batch_size: int
    input_shape: tuple[int, int, int]
    options: dict[str, Any]


_MLP = Size(256, (28, 28, 1), {"hidden": (256, 256)})
_LENET = Size(256, (28, 28, 1), {})

PROBLEMS: dict[str, dict[str, Size]] = {
    "mlp": {"full": _MLP, "small": _MLP, "tiny": Size(4, (4, 4, 1), {"hidden": (8,)})},
    "lenet": {"full": _LENET, "small": _LENET, "tiny": Size(4, (8, 8, 1), {})},
    "resnet18": {
        "full": Size(128, (32, 32, 3), {"width": 64}),
        "small": Size(16, (32, 32, 3), {"width": 16}),
        "tiny": Size(2, (8, 8, 3), {"width": 2}),
    },
}
"""Sizes by name of the network: the real one, one for a few CPU cores, and one for tests."""

SIZES = ("auto", "tiny", "small", "full")


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A network at its initial parameters, with a batch.

    Attributes:
        name: one of ``PROBLEMS``.
        config: what it was made of, for the results.
        params: parameters.
        apply_fn: ``apply_fn(params, inputs) -> scores``.
        loss: per-example loss of the scores.
        batch: inputs (batch, H, W, C) and integer labels (batch,).
    """

    name: str
    config: dict[str, Any]
    params: PyTree
    apply_fn: ModelFn
    loss: losses.FenchelYoungLoss
    batch: Batch

    @property
    def key(self) -> str:
        """What results call it: all that it was made of, so that another size or batch is another problem."""
        config = self.config
        shape = "x".join(map(str, config["input_shape"]))
        options = (f"{name} {value}" for name, value in config["options"].items())
        return ", ".join([self.name, f"{config['batch_size']} examples of {shape}", *options])

    @property
    def objective(self) -> losses.Objective:
        """The mean loss, as a function of parameters and batch."""
        return losses.objective(self.apply_fn, self.loss)


def create_problem(
    name: str, size: str = "auto", *, batch_size: int | None = None, width: int | None = None
) -> Problem:
    """A problem by name; equal arguments give equal numbers.

    Args:
        name: one of ``PROBLEMS``.
        size: one of ``SIZES``; "auto" is "small" on the CPU backend and "full" on all others.
        batch_size: examples, in place of those of the size.
        width: channels of the first stage of "resnet18", in place of those of the size; others have no width.

    Returns:
        The problem.

    Raises:
        ValueError: if the name or the size is unknown, or a number is below 1.
    """
    sizes = lookup("problem", PROBLEMS, name)
    if size == "auto":
        size = "small" if jax.default_backend() == "cpu" else "full"
    chosen = lookup("size", sizes, size)
    options = chosen.options | ({"width": width} if width is not None and "width" in chosen.options else {})
    num_examples = check_positive_int("batch_size", chosen.batch_size if batch_size is None else batch_size)
    keys = jax.random.split(jax.random.key(0), 3)
    model = create_model(name, keys[0], chosen.input_shape, NUM_CLASSES, **options)
    inputs = jax.random.normal(keys[1], (num_examples, *chosen.input_shape))
    labels = jax.random.randint(keys[2], (num_examples,), 0, NUM_CLASSES)
    config = {
        "batch_size": num_examples,
        "input_shape": list(chosen.input_shape),
        "options": {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()},
        "num_params": num_params(model.params),
    }
    loss = losses.fenchel_young(losses.shannon())
    return Problem(name, config, model.params, model.apply_fn, loss, Batch(inputs, labels))

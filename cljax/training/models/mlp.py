"""Multilayer perceptron on flattened inputs."""

import math

import jax
from flax import nnx

from cljax.training.models.layers import activation_fn, check_widths


class MLP(nnx.Module):
    """Dense layers with an activation between them; no hidden layer makes it a linear model.

    Args:
        input_shape: shape (H, W, C) of one input.
        num_classes: number K of scores.
        rngs: random keys of the initial weights (LeCun normal; biases 0).
        hidden: widths of the hidden layers.
        activation: name of the activation.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
    ):
        widths = (math.prod(input_shape), *check_widths("hidden", hidden))
        self.activation_fn = activation_fn(activation)
        self.num_hidden = len(widths) - 1
        for i in range(self.num_hidden):
            setattr(self, f"hidden_{i}", nnx.Linear(widths[i], widths[i + 1], rngs=rngs))
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scores (batch, K) of inputs (batch, H, W, C)."""
        x = inputs.reshape(inputs.shape[0], -1)
        for i in range(self.num_hidden):
            x = self.activation_fn(getattr(self, f"hidden_{i}")(x))
        return self.head(x)

"""A plain convolutional network without normalisation, with or without skip connections."""

import jax
import jax.numpy as jnp
from flax import nnx

from cljax._checks import check_positive_int
from cljax.training.models.layers import activation_fn


class CNN(nnx.Module):
    """3x3 convolutions in three stages of width, 2 width and 4 width channels, mean pooling, one dense layer.

    The network of experiments on depth, width and skip connections: it has nothing else that could shape its spectra.
    Stages two and three halve the image by the stride of their first convolution. A skip connection goes around every
    convolution that keeps the shape.

    Args:
        input_shape: shape (H, W, C) of one input, at least 4x4.
        num_classes: number K of scores.
        rngs: random keys of the initial weights (He normal; biases 0; head LeCun normal).
        width: channels of the first stage.
        depth: convolutions a stage that keep the shape, after the one that sets it.
        skip: whether there are skip connections.
        activation: name of the activation.

    Raises:
        ValueError: if the image is smaller than 4x4.
        TypeError: if ``skip`` is no bool.

    References:
        arXiv:2608.09523, section 6: custom networks a to d, of which only widths and depths are known.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        width: int = 16,
        depth: int = 1,
        skip: bool = False,
        activation: str = "relu",
    ):
        height, image_width, channels = input_shape
        if min(height, image_width) < 4:
            raise ValueError(
                f"input_shape: expected images of at least 4x4 for cnn, got {height}x{image_width}; use mlp"
            )
        if not isinstance(skip, bool):
            raise TypeError(f"skip: expected True or False, got {skip!r}")
        width, self.depth = check_positive_int("width", width), check_positive_int("depth", depth)
        self.skip, self.activation_fn = skip, activation_fn(activation)
        for stage in range(3):
            features = width * 2**stage
            sizes = [channels] + [features] * self.depth
            for index, before in enumerate(sizes):
                conv = nnx.Conv(
                    before,
                    features,
                    (3, 3),
                    strides=2 if stage and not index else 1,
                    kernel_init=nnx.initializers.he_normal(),
                    rngs=rngs,
                )
                setattr(self, f"stage_{stage}_conv_{index}", conv)
            channels = features
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scores (batch, K) of inputs (batch, H, W, C)."""
        x = inputs
        for stage in range(3):
            for index in range(self.depth + 1):
                y = self.activation_fn(getattr(self, f"stage_{stage}_conv_{index}")(x))
                x = x + y if self.skip and index else y
        return self.head(jnp.mean(x, axis=(1, 2)))

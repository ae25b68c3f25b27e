"""LeNet-5, for 28x28 digits, 32x32 colour images and anything down to 4x4."""

import jax
from flax import nnx

from cljax.training.models.layers import activation_fn


class LeNet(nnx.Module):
    """LeNet-5: two 5x5 convolutions with average pooling, then dense layers of 120, 84 and K.

    The classic network takes 32x32 images and does not pad. Smaller images are padded (SAME) in the first convolution,
    which is the classic network on 28x28 images padded to 32x32; the second pads only where its input is smaller than
    8x8. All feature maps of the first pooling feed all of the second convolution, unlike the sparse table of 1998.

    Args:
        input_shape: shape (H, W, C) of one input, at least 4x4.
        num_classes: number K of scores.
        rngs: random keys of the initial weights (LeCun normal; biases 0).
        activation: name of the activation.

    Raises:
        ValueError: if the image is smaller than 4x4.

    References:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        activation: str = "tanh",
    ):
        height, width, channels = input_shape
        if min(height, width) < 4:
            raise ValueError(f"input_shape: expected images of at least 4x4 for lenet, got {height}x{width}; use mlp")
        self.activation_fn = activation_fn(activation)
        padding, height, width = _convolved(height, width, valid_from=32)
        self.conv_0 = nnx.Conv(channels, 6, (5, 5), padding=padding, rngs=rngs)
        padding, height, width = _convolved(height // 2, width // 2, valid_from=8)
        self.conv_1 = nnx.Conv(6, 16, (5, 5), padding=padding, rngs=rngs)
        self.hidden_0 = nnx.Linear(16 * (height // 2) * (width // 2), 120, rngs=rngs)
        self.hidden_1 = nnx.Linear(120, 84, rngs=rngs)
        self.head = nnx.Linear(84, num_classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scores (batch, K) of inputs (batch, H, W, C)."""
        x = inputs
        for conv in (self.conv_0, self.conv_1):
            x = nnx.avg_pool(self.activation_fn(conv(x)), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for dense in (self.hidden_0, self.hidden_1):
            x = self.activation_fn(dense(x))
        return self.head(x)


def _convolved(height: int, width: int, valid_from: int) -> tuple[str, int, int]:
    """Padding and output size of a 5x5 convolution that does not pad images of at least ``valid_from`` per side."""
    if min(height, width) >= valid_from:
        return "VALID", height - 4, width - 4
    return "SAME", height, width

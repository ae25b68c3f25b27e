"""Vision transformer for small images."""

import jax
import jax.numpy as jnp
from flax import nnx

from cljax._checks import check_positive_int
from cljax.training.models.blocks import TransformerBlock
from cljax.training.models.layers import layer_norm


class ViT(nnx.Module):
    """Vision transformer: patches, learned positions, blocks normalised first, the mean of the tokens; no dropout.

    Args:
        input_shape: shape (H, W, C) of one input.
        num_classes: number K of scores.
        rngs: random keys of the initial weights (LeCun normal; biases 0; positions normal of deviation 0.02).
        patch: side of a patch; it divides H and W.
        dim: features of a token.
        depth: number of blocks.
        heads: number of heads; it divides ``dim``.
        mlp_ratio: width of a block's perceptron over ``dim``.
        activation: name of the perceptron's activation.

    Raises:
        ValueError: if the patch does not divide the image, or the heads do not divide ``dim``.

    References:
        Dosovitskiy et al.: An image is worth 16x16 words, 2021. We pool by the mean instead of a class token.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        patch: int = 4,
        dim: int = 192,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: int = 4,
        activation: str = "gelu",
    ):
        height, width, channels = input_shape
        options = {"patch": patch, "dim": dim, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio}
        patch, dim, depth, heads, mlp_ratio = (check_positive_int(name, value) for name, value in options.items())
        if height % patch or width % patch:
            raise ValueError(f"patch: expected a divisor of the image's sides {height} and {width}, got {patch}")
        if dim % heads:
            raise ValueError(f"heads: expected a divisor of dim = {dim}, got {heads}")
        self.patch, self.depth = patch, depth
        self.embed = nnx.Linear(patch * patch * channels, dim, rngs=rngs)
        tokens = (height // patch) * (width // patch)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, dim), jnp.float32))
        for i in range(depth):
            setattr(self, f"block_{i}", TransformerBlock(dim, heads, mlp_ratio * dim, activation, rngs=rngs))
        self.norm = layer_norm(dim, rngs)
        self.head = nnx.Linear(dim, num_classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scores (batch, K) of inputs (batch, H, W, C)."""
        batch, height, width, channels = inputs.shape
        p = self.patch
        x = inputs.reshape(batch, height // p, p, width // p, p, channels).swapaxes(2, 3)
        x = self.embed(x.reshape(batch, -1, p * p * channels)) + self.positions[...][None]
        for i in range(self.depth):
            x = getattr(self, f"block_{i}")(x)
        return self.head(jnp.mean(self.norm(x), axis=1))

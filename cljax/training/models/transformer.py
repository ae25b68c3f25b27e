"""Decoder-only transformer: a language model of any size.

Blocks are unrolled, each with its own parameters.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cljax._checks import check_positive_int
from cljax.training.models.blocks import TransformerBlock
from cljax.training.models.layers import layer_norm

SIZES: dict[str, dict[str, int]] = {
    "124M": {"depth": 12, "width": 768, "heads": 12},
    "1.3B": {"depth": 24, "width": 2048, "heads": 16},
    "7B": {"depth": 32, "width": 4096, "heads": 32},
    "70B": {"depth": 86, "width": 8192, "heads": 64},
}
"""Options of well-known sizes: with a vocabulary of 50,257 and tied scores 124,439,808 (GPT-2 small, context 1,024),
1,315,723,264, 6,658,404,352 and 69,694,005,248 parameters (context 2,048)."""


class Transformer(nnx.Module):
    """GPT-2: learned positions, blocks normalised first, causal attention, a perceptron with GELU; no dropout.

    The scores at a place depend on the tokens up to that place alone. Parameters are ``embedding`` (V, width),
    ``positions`` (T, width), ``block_I`` with ``norm_0``, ``attention`` (``query``, ``key``, ``value``, ``out``),
    ``norm_1``, ``mlp_0`` and ``mlp_1``, ``norm``, and ``head`` (width, V) where it is not tied. With the embedding as
    head there are V d + T d + L ((4 + 2 r) d² + (9 + r) d) + 2 d of them: d the width, L the depth, r = ``mlp_ratio``.

    $ cljax track --dataset tinyshakespeare --model transformer --context 64 --num-steps 60 --measure-every 20
      --measure-examples 16 --eval-examples 200 --learning-rate 0.1 --batch-size 16 --density-steps 24

    Args:
        input_shape: shape (T,) of one input, the context.
        num_classes: number V of scores, the size of the vocabulary.
        rngs: random keys of the initial weights (normal of deviation 0.02, that of kernels added to their input
            divided by √(2 depth); positions 0.01; scales 1, biases 0).
        depth: number of blocks.
        width: features of a token.
        heads: number of heads; it divides ``width``.
        mlp_ratio: width of a block's perceptron over ``width``.
        tied: whether the embedding is the head too.
        remat: whether derivatives compute a block's intermediate values again rather than store them.
        activation: name of the perceptron's activation.

    Raises:
        ValueError: if the heads do not divide ``width``.
        TypeError: if ``tied`` or ``remat`` is no bool.

    References:
        Radford et al.: Language models are unsupervised multitask learners, 2019.
    """

    input_axes = ("context",)

    def __init__(
        self,
        input_shape: tuple[int],
        num_classes: int,
        *,
        rngs: nnx.Rngs,
        depth: int = 2,
        width: int = 64,
        heads: int = 4,
        mlp_ratio: int = 4,
        tied: bool = True,
        remat: bool = False,
        activation: str = "gelu",
    ):
        options = {"depth": depth, "width": width, "heads": heads, "mlp_ratio": mlp_ratio}
        depth, width, heads, mlp_ratio = (check_positive_int(name, value) for name, value in options.items())
        if width % heads:
            raise ValueError(f"heads: expected a divisor of width = {width}, got {heads}")
        for name, value in {"tied": tied, "remat": remat}.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name}: expected True or False, got {value!r}")
        self.depth, self.tied, self.remat = depth, tied, remat
        kernel_init = nnx.initializers.normal(0.02)
        out_init = nnx.initializers.normal(0.02 * (2 * depth) ** -0.5)
        self.embedding = nnx.Param(kernel_init(rngs.params(), (num_classes, width), jnp.float32))
        self.positions = nnx.Param(0.01 * jax.random.normal(rngs.params(), (*input_shape, width), jnp.float32))
        for i in range(depth):
            block = TransformerBlock(
                width,
                heads,
                mlp_ratio * width,
                activation,
                rngs=rngs,
                causal=True,
                kernel_init=kernel_init,
                out_init=out_init,
            )
            setattr(self, f"block_{i}", block)
        self.norm = layer_norm(width, rngs)
        if not tied:
            self.head = nnx.Linear(width, num_classes, use_bias=False, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Scores (batch, T, V) of tokens (batch, T), integers in 0..V−1; a token out of range gives NaN."""
        return self.scores(self.features(inputs))

    def features(self, inputs: jax.Array) -> jax.Array:
        """Features (batch, T, width) of tokens (batch, T): what the head makes scores of."""
        embedding = self.embedding[...]
        x = embedding.at[inputs].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        x = x + self.positions[...][None]
        block_fn = jax.checkpoint(_block, static_argnums=0) if self.remat else _block
        for i in range(self.depth):
            x = block_fn(*nnx.split(getattr(self, f"block_{i}")), x)
        return self.norm(x)

    def scores(self, features: jax.Array) -> jax.Array:
        """Scores (..., V) of features (..., width)."""
        return features @ self.embedding[...].T if self.tied else self.head(features)


@partial(jax.jit, static_argnums=0)  # equal blocks are traced once, whatever the depth
def _block(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state)(x)

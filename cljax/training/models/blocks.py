"""Blocks of transformers: softmax attention and a perceptron, normalised first."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cljax.training.models.layers import activation_fn, layer_norm

LECUN_NORMAL = nnx.initializers.lecun_normal()


class SelfAttention(nnx.Module):
    """Softmax attention written out, so that it has derivatives of every order in both modes.

    Args:
        dim: features of a token.
        heads: number of heads; it divides ``dim``.
        rngs: random keys of the initial weights.
        causal: whether a token sees no later ones.
        kernel_init: initializer of the kernels of queries, keys and values.
        out_init: initializer of the kernel that is added to the input.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        causal: bool = False,
        kernel_init: Any = LECUN_NORMAL,
        out_init: Any = LECUN_NORMAL,
    ):
        self.heads, self.causal = heads, causal
        self.query = nnx.Linear(dim, dim, kernel_init=kernel_init, rngs=rngs)
        self.key = nnx.Linear(dim, dim, kernel_init=kernel_init, rngs=rngs)
        self.value = nnx.Linear(dim, dim, kernel_init=kernel_init, rngs=rngs)
        self.out = nnx.Linear(dim, dim, kernel_init=out_init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens (batch, T, dim) -> (batch, T, dim)."""
        batch, tokens, dim = x.shape
        split = (batch, tokens, self.heads, dim // self.heads)
        query, key, value = (layer(x).reshape(split) for layer in (self.query, self.key, self.value))
        scale = (dim // self.heads) ** -0.5
        logits = jnp.einsum("bqhd,bkhd->bhqk", query * scale, key)
        if self.causal:
            seen = jnp.tril(jnp.ones((tokens, tokens), bool))
            logits = jnp.where(seen[None, None], logits, jnp.finfo(logits.dtype).min)
        weights = jax.nn.softmax(logits, axis=-1)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape))


class TransformerBlock(nnx.Module):
    """Attention and a two-layer perceptron, each normalised before and added to its input.

    Args:
        dim: features of a token.
        heads: number of heads.
        mlp_dim: width of the perceptron.
        activation: name of its activation.
        rngs: random keys of the initial weights.
        causal: whether a token sees no later ones.
        kernel_init: initializer of the kernels.
        out_init: initializer of the two kernels that are added to the input.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        activation: str,
        *,
        rngs: nnx.Rngs,
        causal: bool = False,
        kernel_init: Any = LECUN_NORMAL,
        out_init: Any = LECUN_NORMAL,
    ):
        self.activation_fn = activation_fn(activation)
        self.norm_0 = layer_norm(dim, rngs)
        self.attention = SelfAttention(dim, heads, rngs=rngs, causal=causal, kernel_init=kernel_init, out_init=out_init)
        self.norm_1 = layer_norm(dim, rngs)
        self.mlp_0 = nnx.Linear(dim, mlp_dim, kernel_init=kernel_init, rngs=rngs)
        self.mlp_1 = nnx.Linear(mlp_dim, dim, kernel_init=out_init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens (batch, T, dim) -> (batch, T, dim)."""
        x = x + self.attention(self.norm_0(x))
        return x + self.mlp_1(self.activation_fn(self.mlp_0(self.norm_1(x))))

"""The mean loss of a model with many scores, a chunk of tokens at a time: the scores of all tokens never exist at once.

A language model of 50,000 words has 50,000 scores for each token, far more than it has features. Here the model comes
as features and a head, and the head runs on one chunk of tokens after the other. ``jax.checkpoint`` makes derivatives
of any order compute a chunk's scores again rather than store them.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._batch import Batch, expand_weight, without_masked_targets
from cljax._checks import check_positive_int
from cljax._typing import LossFn, PyTree


@dataclasses.dataclass(frozen=True)
class ChunkedObjective:
    """Σ wᵢ ℓ(head_fn(params, featuresᵢ), targetsᵢ) / Σ wᵢ over tokens i; equal by value, so that jit does not retrace.

    Attributes:
        features_fn: ``features_fn(params, inputs) -> features``.
        head_fn: ``head_fn(params, features) -> scores`` of a chunk.
        loss: per-token ``loss(scores, targets)``.
        chunk_size: the most tokens whose scores exist at once.
    """

    features_fn: Callable[[PyTree, PyTree], jax.Array]
    head_fn: Callable[[PyTree, jax.Array], jax.Array]
    loss: LossFn
    chunk_size: int

    def __call__(self, params: PyTree, batch: Batch) -> jax.Array:
        """The weighted mean loss: a scalar.

        Args:
            params: pytree of floating arrays.
            batch: inputs, targets and weights.

        Returns:
            A scalar; NaN where all weights are 0.
        """
        features = self.features_fn(params, batch.inputs)
        share = token_share(self, params, features, batch)
        wide = tree.to_work(params)  # derivatives add up over chunks in the dtype of what enters the loop

        @partial(jax.checkpoint, prevent_cse=False)
        def part_fn(features: jax.Array, share: jax.Array, targets: PyTree) -> jax.Array:
            losses = self.loss(self.head_fn(tree.cast_like(wide, params), features), targets)
            return jnp.sum(jnp.where(share == 0, 0, share * losses))

        def step(*chunk: Any) -> tuple[jax.Array, None]:
            return part_fn(*chunk), None

        zero = jnp.zeros((), share.dtype)
        return scan_tokens(step, zero, features, share, batch.targets, self.chunk_size)[0]


def chunked_objective(
    features_fn: Callable[[PyTree, PyTree], jax.Array],
    head_fn: Callable[[PyTree, jax.Array], jax.Array],
    loss: LossFn,
    *,
    chunk_size: int,
) -> ChunkedObjective:
    """The weighted mean of a per-token loss, with the scores of at most ``chunk_size`` tokens alive at a time.

    It is ``losses.objective`` of the model ``head_fn(params, features_fn(params, inputs))``, and so are its gradient
    (``jax.grad``), its Hessian (``curvature.hessian``) and its Gauss-Newton matrix
    (``curvature.chunked_gauss_newton``), up to rounding. A derivative computes each chunk's scores anew: with a head
    that is a matrix product, a gradient costs a third more, a Hessian product up to a quarter more.

    JAX forgets a loss's own rule of differentiation (as ``losses.sparsemax`` has one) for the value that
    ``jax.value_and_grad`` returns, where that is differentiated again; the gradient keeps it.

    Under a mesh, take a ``chunk_size`` that divides the number of tokens and is divisible by the devices that share
    them: each chunk then has tokens of every device.

    Args:
        features_fn: ``features_fn(params, inputs) -> features`` of shape (batch, ..., d); all axes but the last are
            tokens.
        head_fn: ``head_fn(params, features) -> scores``, of shapes (chunk, d) to (chunk, K): each token's scores from
            its features alone. It takes all of ``params``, so an embedding may be used in both functions.
        loss: ``loss(scores, targets) -> losses`` of shapes (chunk, K) to (chunk,), never reduced.
        chunk_size: static, at least 1; uneven chunks are exact.

    Returns:
        A hashable function of ``params`` and a ``cljax.Batch`` to a scalar. Targets have shape (batch, ...) or
        (batch, ..., K), weights a leading part of (batch, ...).

    Raises:
        TypeError: if ``chunk_size`` is no integer.
        ValueError: if it is below 1, or, at the first call, shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> import cljax
        >>> from cljax import losses
        >>> loss = losses.fenchel_young(losses.squared())
        >>> mean_loss = losses.chunked_objective(lambda w, x: 2 * x, lambda w, h: h @ w, loss, chunk_size=2)
        >>> batch = cljax.Batch(jnp.eye(3), jnp.array([[2.0], [0.0], [1.0]]))
        >>> round(mean_loss(jnp.ones((3, 1)), batch).item(), 4)
        0.8333

    References:
        Chen, Xu, Zhang and Guestrin, Training deep nets with sublinear memory cost, arXiv:1604.06174 (2016).
    """
    return ChunkedObjective(features_fn, head_fn, loss, check_positive_int("chunk_size", chunk_size))


def token_share(objective: ChunkedObjective, params: PyTree, features: jax.Array, batch: Batch) -> jax.Array:
    """The share w / Σw of each token, in the dtype of the losses; checks the shapes of model and batch.

    Args:
        objective: the model and its loss.
        params: pytree of floating arrays.
        features: (batch, ..., d).
        batch: inputs, targets and weights.

    Returns:
        Shape (batch, ...); NaN where all weights are 0.

    Raises:
        ValueError: if features have fewer than 2 axes, a target or weight does not begin with the tokens' axes, or the
            loss is not one number for each token.
    """
    if features.ndim < 2:
        raise ValueError(f"features_fn: expected features of shape (batch, ..., d), got {features.shape}")
    tokens = features.shape[:-1]
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch.targets):
        if jnp.shape(leaf)[: len(tokens)] != tokens:
            where = f"batch.targets{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: expected shape {tokens} or {(*tokens, '...')}, got {jnp.shape(leaf)}")

    def chunk(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *jnp.shape(x)[len(tokens) :]), jnp.result_type(x))

    scores = jax.eval_shape(objective.head_fn, params, chunk(features))
    losses = jax.eval_shape(objective.loss, scores, jax.tree.map(chunk, batch.targets))
    if losses.shape != (1,):
        raise ValueError(
            f"loss: expected shapes (chunk, K) to (chunk,), got {scores.shape} to {losses.shape} for a chunk of 1; "
            "head_fn takes features (chunk, d), and the loss must not be reduced"
        )
    weight = expand_weight(batch.weight, jax.ShapeDtypeStruct(tokens, tree.work_dtype(losses.dtype)))
    return weight / jnp.sum(weight)


def scan_tokens(
    step: Callable[[PyTree, jax.Array, PyTree], tuple[PyTree, PyTree]],
    zero: PyTree,
    features: PyTree,
    share: jax.Array,
    targets: PyTree,
    chunk_size: int,
) -> tuple[PyTree, PyTree]:
    """Work on chunks of tokens, one after the other.

    A chunk takes every so-manieth token, not neighbours: where tokens are sharded, each device has its part of each
    chunk. What is missing in the last chunk is the first token again, with share 0.

    Args:
        step: ``step(features, share, targets) -> (addend, rows)`` of a chunk, with one leading axis for its tokens.
        zero: zeros of the structure, shapes and dtypes of the sum.
        features: pytree of arrays (*tokens, ...).
        share: (*tokens); 0 hides a token, whose targets then become 0.
        targets: pytree of arrays (*tokens, ...); not copied where the chunks are even.
        chunk_size: at least 1; fewer where that makes the chunks more even.

    Returns:
        The sum of the addends, and the rows of all tokens (*tokens, ...).
    """
    tokens, num = share.shape, share.size
    count = -(-num // chunk_size)
    per = -(-num // count)
    pad = per * count - num

    def columns(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        x = x.reshape(num, *x.shape[len(tokens) :])
        if pad:
            x = jnp.concatenate([x, jnp.broadcast_to(x[:1], (pad, *x.shape[1:]))])
        return x.reshape(per, count, *x.shape[1:])

    counts = (jnp.arange(per * count) < num).reshape(per, count)
    shares = jnp.where(counts, columns(share), 0)
    targets = jax.tree.map(columns, targets)

    def body(total: PyTree, chunk: tuple[PyTree, jax.Array, jax.Array]) -> tuple[PyTree, PyTree]:
        features, share, index = chunk
        part = jax.tree.map(lambda y: jax.lax.dynamic_index_in_dim(y, index, 1, keepdims=False), targets)
        part = without_masked_targets(Batch(None, part, share)).targets
        addend, rows = step(features, share, part)
        return tree.axpy(1, addend, total), rows

    by_chunk = jax.tree.map(lambda x: jnp.swapaxes(columns(x), 0, 1), features)
    total, rows = jax.lax.scan(body, zero, (by_chunk, shares.T, jnp.arange(count)))

    def restore(x: jax.Array) -> jax.Array:
        x = jnp.swapaxes(x, 0, 1)
        return x.reshape(per * count, *x.shape[2:])[:num].reshape(*tokens, *x.shape[2:])

    return total, jax.tree.map(restore, rows)

"""The zoo: small problems of every kind that the operators must be right on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import cljax
from cljax import losses

SHANNON, SQUARED, BERNOULLI = (
    losses.fenchel_young(regularizer) for regularizer in (losses.shannon(), losses.squared(), losses.bernoulli())
)


@dataclasses.dataclass(frozen=True)
class Problem:
    apply_fn: Callable[..., Any]
    loss: Callable[..., Any]
    params: Any
    batch: cljax.Batch

    @property
    def objective(self):
        return losses.objective(self.apply_fn, self.loss)


def linear(params, x):
    return x @ params


def mlp(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"][None]) @ params["w2"]


def nested(params, x):
    hidden, (scale, out) = params["layers"][0], params["head"]
    return scale * (jnp.tanh(x @ hidden["w"]) @ out)


def conv(params, x):
    dims = ("NHWC", "HWIO", "NHWC")
    hidden = jnp.tanh(jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=dims))
    return hidden.reshape(x.shape[0], -1) @ params["out"]


def smooth_huber(scores, targets):
    return jnp.sum(jnp.sqrt(1 + (scores - targets) ** 2) - 1, axis=-1)


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def _mlp_params(inputs=4, hidden=5, outputs=3):
    return {"w1": _normal(1, inputs, hidden), "b1": _normal(2, hidden), "w2": _normal(3, hidden, outputs)}


def _soft(seed, *shape):
    exp = np.exp(_normal(seed, *shape))
    return exp / exp.sum(-1, keepdims=True)


def _flax():
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    return (lambda p, x: nnx.merge(graphdef, p)(x)), nnx.to_pure_dict(params)


def _equinox():
    model = eqx.nn.MLP(4, 3, 5, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    return (lambda p, x: jax.vmap(eqx.combine(p, rest))(x)), params


def _labels(n, num_classes):
    return np.arange(n) % num_classes


FLAX_FN, FLAX_PARAMS = _flax()
EQUINOX_FN, EQUINOX_PARAMS = _equinox()
X = _normal(0, 7, 4)
WEIGHT = np.array([0.5, 0.0, 2.0, 1.0, 0.0, 3.0, 0.25])

_ZOO: dict[str, Problem] = {
    "linear-squared": Problem(linear, SQUARED, _normal(1, 4, 2), cljax.Batch(X, _normal(2, 7, 2))),
    "logistic": Problem(linear, BERNOULLI, _normal(1, 4, 1), cljax.Batch(X, _labels(7, 2))),
    "softmax-mlp": Problem(mlp, SHANNON, _mlp_params(), cljax.Batch(X, _labels(7, 3))),
    "soft-targets": Problem(mlp, SHANNON, _mlp_params(), cljax.Batch(X, _soft(4, 7, 3))),
    "weighted": Problem(mlp, SHANNON, _mlp_params(), cljax.Batch(X, _labels(7, 3), WEIGHT)),
    "nested-scalar": Problem(
        nested,
        SQUARED,
        {"layers": [{"w": _normal(1, 4, 3)}], "head": (np.array(1.5), _normal(2, 3, 2))},
        cljax.Batch(X, _normal(3, 7, 2)),
    ),
    "one-parameter": Problem(lambda p, x: p * x[:, :1], SQUARED, np.array(0.7), cljax.Batch(X, X[:, 1:2])),
    "conv": Problem(
        conv,
        SHANNON,
        {"kernel": _normal(1, 3, 3, 1, 2), "out": _normal(2, 32, 3)},
        cljax.Batch(_normal(3, 5, 4, 4, 1), _labels(5, 3)),
    ),
    "tokens": Problem(
        linear,
        SHANNON,
        _normal(1, 4, 3),
        cljax.Batch(_normal(2, 3, 4, 4), _labels(12, 3).reshape(3, 4), np.abs(_normal(3, 3, 4))),
    ),
    "not-fenchel-young": Problem(mlp, smooth_huber, _mlp_params(), cljax.Batch(X, _normal(4, 7, 3), WEIGHT)),
    "bernoulli-soft": Problem(mlp, BERNOULLI, _mlp_params(), cljax.Batch(X, _soft(5, 7, 3))),
    "flax": Problem(FLAX_FN, SHANNON, FLAX_PARAMS, cljax.Batch(X, _labels(7, 3))),
    "equinox": Problem(EQUINOX_FN, SHANNON, EQUINOX_PARAMS, cljax.Batch(X, _labels(7, 3))),
}
NAMES = sorted(_ZOO)


def problem(name: str, dtype: Any = jnp.float64) -> Problem:
    """A problem of the zoo with all its floating arrays in ``dtype``."""

    def cast(x):
        x = np.asarray(x)
        return jnp.asarray(x, dtype if np.issubdtype(x.dtype, np.floating) else jnp.int32)

    found = _ZOO[name]
    return dataclasses.replace(found, params=jax.tree.map(cast, found.params), batch=jax.tree.map(cast, found.batch))

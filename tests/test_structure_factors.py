"""Structure matrices in factors against whole rows of Jacobians, on models of every kind."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import curvature

NHWC = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its parameters by shape, and the forms in which its leaves must be taken, in the order of leaves."""

    apply_fn: Callable[..., Any]
    shapes: Any
    input_shape: tuple[int, ...]
    forms: str
    num_examples: int = 3


def conv(x, w, stride=1, padding="SAME", **options):
    strides = stride if isinstance(stride, tuple) else (stride,) * (x.ndim - 2)
    options.setdefault("dimension_numbers", NHWC)
    return jax.lax.conv_general_dilated(x, w, strides, padding, **options)


def flat(x):
    return x.reshape(x.shape[0], -1)


def head(p, x):
    return flat(x) @ p["out"]


def scanned(p, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["layers"])[0] @ p["out"]


def branched(p, x):
    return jax.lax.cond(jnp.sum(x) > 0, lambda w: jnp.tanh(x @ w), lambda w: jnp.sin(x @ w), p["w"]) @ p["out"]


def looped(p, x):
    h = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["w"]), x)
    return h @ p["out"]


@jax.custom_vjp
def cubed(x):
    return x**3


cubed.defvjp(lambda x: (x**3, x), lambda x, g: (2 * x**2 * g,))  # its own rule, not the derivative


@jax.custom_vjp
def scaled(w, x):
    return x @ w


scaled.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, g: (2 * saved[1].T @ g, g @ saved[0].T))


def attention(p, x):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in ("k", "q", "v"))
    weights = jax.nn.softmax(jnp.einsum("bqhe,bkhe->bhqk", q, k))
    mixed = jnp.einsum("bhqk,bkhe->bqhe", weights, v)
    return jnp.mean(jnp.einsum("bthe,hed->btd", mixed, p["o"]), 1) @ p["out"]


def recurrent(p, x):
    h = jnp.zeros((x.shape[0], 5))
    for t in range(x.shape[1]):
        h = jnp.tanh(x[:, t] @ p["in"] + h @ p["rec"])
    return h @ p["out"]


def contracted_in_two_orders(p, x):
    first = jax.lax.dot_general(x, p["w"], (((1, 2), (0, 1)), ((), ())))
    return first * jax.lax.dot_general(jnp.tanh(x), p["w"], (((2, 1), (1, 0)), ((), ())))


def tied(p, x):
    tokens = jnp.argsort(x, axis=1)
    return jnp.tanh(p["embedding"][tokens].mean(1)) @ p["embedding"].T


CONV = {"out": (32, 3), "w": (3, 3, 2, 4)}
CASES = {
    "one layer": Case(lambda w, x: x @ w, (4, 3), (4,), "outer"),
    "mlp": Case(
        lambda p, x: jnp.tanh(x @ p["a"] + p["b"][None]) @ p["c"],
        {"a": (4, 5), "b": (5,), "c": (5, 3)},
        (4,),
        "outer rows outer",
    ),
    "transposed": Case(
        lambda p, x: (p["w"] @ jnp.tanh(x).T).T @ p["out"].T, {"out": (3, 5), "w": (5, 4)}, (4,), "outer outer"
    ),
    "reshaped": Case(lambda p, x: x @ jnp.expand_dims(p["w"].reshape(3, 4), 0)[0].T, {"w": (2, 6)}, (4,), "outer"),
    "many positions": Case(
        lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]) ** 2, 1), {"w": (2, 3)}, (30, 2), "kernel gradient"
    ),
    "few positions": Case(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]) ** 2, 1), {"w": (30, 3)}, (2, 30), "patch gram"),
    "batched kernel": Case(
        lambda p, x: jnp.sum(jnp.tanh(jnp.einsum("bsgi,goi->bgso", x, p["w"])), (1, 2)),
        {"w": (3, 4, 20)},
        (2, 3, 20),
        "patch gram",
    ),
    "batched kernel on the left": Case(
        lambda p, x: jnp.sum(jnp.tanh(jnp.einsum("ghoi,bshgi->ghobs", p["w"], x)), (0, 1, 4)).T,
        {"w": (3, 2, 4, 2)},
        (20, 2, 3, 2),
        "kernel gradient",
    ),
    "attention": Case(
        attention,
        {"k": (6, 2, 4), "o": (2, 4, 6), "out": (6, 3), "q": (6, 2, 4), "v": (6, 2, 4)},
        (5, 6),
        "patch gram, patch gram, outer, patch gram, patch gram",
    ),
    "conv": Case(lambda p, x: head(p, jnp.tanh(conv(x, p["w"], 2))), CONV, (4, 8, 2), "outer patch gram"),
    "valid conv": Case(
        lambda p, x: head(p, jnp.tanh(conv(x, p["w"], padding="VALID"))),
        {"out": (24, 3), "w": (3, 3, 20, 4)},
        (4, 5, 20),
        "outer patch gram",
    ),
    "odd strides, dilations and padding": Case(
        lambda p, x: head(
            p,
            jnp.tanh(conv(x, p["w"], (2, 1), ((3, 0), (-1, 2)), lhs_dilation=(1, 2), rhs_dilation=(2, 1))),
        ),
        {"out": (84, 3), "w": (3, 2, 2, 4)},
        (6, 4, 2),
        "outer kernel gradient",
    ),
    "channels first": Case(
        lambda p, x: head(p, jnp.tanh(conv(x, p["w"], dimension_numbers=("NCHW", "OIHW", "NCHW")))),
        {"out": (64, 3), "w": (4, 2, 3, 3)},
        (2, 4, 4),
        "outer kernel gradient",
    ),
    "grouped conv": Case(
        lambda p, x: head(p, jnp.tanh(conv(x, p["w"], feature_group_count=2))),
        {"out": (96, 3), "w": (3, 3, 2, 6)},
        (4, 4, 4),
        "outer kernel gradient",
    ),
    "depthwise conv": Case(
        lambda p, x: head(p, jnp.tanh(conv(x, p["w"], feature_group_count=4))),
        {"out": (128, 3), "w": (2, 2, 1, 8)},
        (4, 4, 4),
        "outer kernel gradient",
    ),
    "one-dimensional conv": Case(
        lambda p, x: head(p, jnp.tanh(conv(x, p["w"], dimension_numbers=("NWC", "WIO", "NWC")))),
        {"out": (28, 3), "w": (3, 2, 4)},
        (7, 2),
        "outer kernel gradient",
    ),
    "reversed and rearranged conv": Case(
        lambda p, x: head(p, jnp.tanh(conv(x, p["w"].transpose(2, 3, 1, 0)[::-1]))),
        {"out": (64, 3), "w": (4, 2, 3, 3)},
        (4, 4, 2),
        "outer kernel gradient",
    ),
    "remat": Case(
        lambda p, x: jax.checkpoint(lambda w, x: jnp.tanh(x @ w))(p["w"], x) @ p["out"],
        {"out": (5, 3), "w": (4, 5)},
        (4,),
        "outer outer",
    ),
    "nested jit, called twice": Case(
        lambda p, x: NESTED(p["b"], NESTED(p["a"], x)), {"a": (4, 4), "b": (4, 4)}, (4,), "outer outer"
    ),
    "shared at several places": Case(
        recurrent, {"in": (3, 5), "out": (5, 2), "rec": (5, 5)}, (4, 3), "kernel gradient, outer, kernel gradient"
    ),
    "shared, axes in two orders": Case(contracted_in_two_orders, {"w": (2, 3, 4)}, (2, 3), "patch gram"),
    "shared in several arrangements": Case(lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, {"w": (4, 5)}, (4,), "rows"),
    "tied embeddings": Case(tied, {"embedding": (6, 4)}, (6,), "rows"),
    "scan": Case(scanned, {"layers": (3, 4, 4), "out": (4, 2)}, (4,), "rows outer"),
    "cond": Case(branched, {"out": (5, 3), "w": (4, 5)}, (4,), "outer rows"),
    "fori_loop": Case(looped, {"out": (4, 3), "w": (4, 4)}, (4,), "outer rows"),
    "rules of activations": Case(
        lambda p, x: cubed(x @ p["w"]) @ p["out"], {"out": (5, 3), "w": (4, 5)}, (4,), "outer outer"
    ),
    "rules of products": Case(
        lambda p, x: jnp.tanh(scaled(p["w"], x)) @ p["out"], {"out": (5, 3), "w": (4, 5)}, (4,), "outer rows"
    ),
    "product of parameters": Case(lambda p, x: x @ (p["a"] @ p["b"]), {"a": (4, 2), "b": (2, 3)}, (4,), "rows rows"),
    "product with what a parameter made": Case(
        lambda p, x: x @ (jnp.tanh(p["a"]) @ p["b"]), {"a": (4, 2), "b": (2, 3)}, (4,), "rows kernel gradient"
    ),
    "kernel and factor": Case(
        lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"] * p["w"][0][None], {"w": (4, 4)}, (4,), "rows"
    ),
    "inputs that depend on the kernel": Case(
        lambda p, x: jnp.tanh(x * jnp.sum(p["w"])) @ p["w"], {"w": (4, 3)}, (4,), "rows"
    ),
    "sliced": Case(lambda p, x: jnp.tanh(x @ p["w"][:, :4]) @ p["w"][:, 4:], {"w": (4, 7)}, (4,), "rows"),
    "unused": Case(lambda p, x: x @ p["w"], {"idle": (7,), "w": (4, 3)}, (4,), "none outer"),
    "among the scores": Case(
        lambda p, x: jnp.broadcast_to(p["b"][None], (x.shape[0], 3)) + 0 * x[:, :3], {"b": (3,)}, (4,), "rows"
    ),
    "nothing but scores": Case(lambda p, x: p["b"].reshape(1, 3), {"b": (3,)}, (4,), "rows", 1),
    "scores that need no parameter": Case(lambda p, x: x, {"b": (3,)}, (4,), "none"),
}
NESTED = jax.jit(lambda w, x: jnp.tanh(x @ w))


def random_params(shapes, dtype=jnp.float64):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s), dtype), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def random_inputs(shape, num_examples=3, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(1).standard_normal((num_examples, *shape)), dtype)


def whole_rows(apply_fn, params, inputs):
    """J of each example by itself: (n, K, parameters)."""

    def rows(x):
        found = jax.jacrev(lambda p: apply_fn(p, x[None])[0])(params)
        return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(found)], axis=1)

    return jax.jit(jax.vmap(rows))(inputs)


def example_blocks(apply_fn, params, inputs):
    rows = np.asarray(whole_rows(apply_fn, params, inputs), np.float64)
    return rows @ rows.transpose(0, 2, 1)


@pytest.mark.parametrize("name", CASES)
def test_exact_on_models_of_every_kind(name, x64):
    case = CASES[name]
    params, inputs = random_params(case.shapes), random_inputs(case.input_shape, case.num_examples)
    expected = example_blocks(case.apply_fn, params, inputs)
    found = curvature.structure_matrix(case.apply_fn, params, inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    np.testing.assert_array_equal(found, found.transpose(0, 2, 1))
    num_scores = expected.shape[-1]
    if num_scores > 1:  # on the complement of ones in a basis of its own: the same eigenvalues
        basis = np.linalg.eigh(np.eye(num_scores) - 1 / num_scores)[1][:, 1:]
        centered = curvature.structure_matrix(case.apply_fn, params, inputs, centered=True)
        np.testing.assert_allclose(
            np.linalg.eigvalsh(centered),
            np.linalg.eigvalsh(basis.T @ expected @ basis),
            rtol=0,
            atol=1e-13 * np.abs(expected).max(),
        )
    forms = [leaf.form for leaf in curvature.structure_report(case.apply_fn, params, inputs).leaves]
    assert " ".join(forms) == case.forms.replace(",", "")

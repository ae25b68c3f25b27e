"""Models of images: shapes, sizes in closed form, derivatives, independence of examples, one trace for equal models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.training.models import create_model, num_params
from cljax.training.models.create import _abstract

SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
SMALL = {
    "mlp": {"hidden": (5,)},
    "lenet": {},
    "cnn": {"width": 2},
    "resnet18": {"width": 2},
    "vit": {"dim": 8, "depth": 1, "heads": 2, "mlp_ratio": 2},
}


def build(name, shape=(8, 8, 1), num_classes=3, seed=0, **options):
    return create_model(name, jax.random.key(seed), shape, num_classes, **(SMALL[name] | options))


def function_and_struct(name, shape, num_classes, **options):
    """The function and the parameters' shapes alone: nothing is computed or compiled."""
    functions = []

    def params(key):
        model = create_model(name, key, shape, num_classes, **options)
        functions.append(model.apply_fn)
        return model.params

    struct = jax.eval_shape(params, jax.random.key(0))
    return functions[0], struct


def size(*args, **options):
    return num_params(function_and_struct(*args, **options)[1])


def inputs_of(shape, batch=4, seed=7):
    return jax.random.normal(jax.random.key(seed), (batch, *shape))


def dense(a, b):
    return a * b + b


def resnet_size(width, channels, num_classes):
    def conv(a, b, size):
        return a * b * size**2 + 2 * b

    total = conv(channels, width, 3)
    before = width
    for stage in range(4):
        after = width * 2**stage
        total += conv(before, after, 3) + 3 * conv(after, after, 3)
        total += conv(before, after, 1) if stage else 0
        before = after
    return total + dense(before, num_classes)


def vit_size(shape, num_classes, patch, dim, depth, ratio):
    height, width, channels = shape
    block = 4 * dense(dim, dim) + dense(dim, ratio * dim) + dense(ratio * dim, dim) + 4 * dim
    tokens = (height // patch) * (width // patch)
    return dense(patch**2 * channels, dim) + tokens * dim + depth * block + 2 * dim + dense(dim, num_classes)


@functools.partial(jax.jit, static_argnums=0)
def apply(apply_fn, params, x):
    return apply_fn(params, x)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("name", SMALL)
def test_shapes_on_every_data_set(name, data):
    apply_fn, params = function_and_struct(name, SHAPES[data], 10, **SMALL[name])
    inputs = jax.ShapeDtypeStruct((2, *SHAPES[data]), jnp.float32)
    scores = jax.eval_shape(apply_fn, params, inputs)
    assert scores.shape == (2, 10)
    assert scores.dtype == jnp.float32


@pytest.mark.parametrize("name", SMALL)
def test_plain_float32_parameters_and_finite_scores(name):
    model = build(name)
    scores = apply(model.apply_fn, model.params, inputs_of((8, 8, 1)))
    assert np.all(np.isfinite(scores))
    assert float(jnp.std(scores)) > 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert all(isinstance(entry, jax.tree_util.DictKey) and isinstance(entry.key, str) for entry in path)
        assert not {"mean", "var", "count"} & {entry.key for entry in path}


def test_sizes_in_closed_form():
    assert size("mlp", (8, 8, 1), 10) == dense(64, 64) + dense(64, 64) + dense(64, 10)
    assert size("mlp", (8, 8, 1), 10, hidden=()) == dense(64, 10)
    conv = [
        9 * a * b + b for a, b in ((1, 5), (5, 5), (5, 5), (5, 10), (10, 10), (10, 10), (10, 20), (20, 20), (20, 20))
    ]
    assert size("cnn", (8, 8, 1), 3, width=5, depth=2) == sum(conv) + dense(20, 3)
    assert size("cnn", (8, 8, 1), 3, width=5, depth=2, skip=True) == sum(conv) + dense(20, 3)
    assert size("lenet", (28, 28, 1), 10) == 61_706
    assert size("lenet", (32, 32, 1), 10) == 61_706
    assert size("lenet", (32, 32, 3), 10) == 62_006
    assert size("lenet", (8, 8, 1), 10) == 156 + 2416 + dense(64, 120) + dense(120, 84) + dense(84, 10)
    assert size("resnet18", (32, 32, 3), 10) == resnet_size(64, 3, 10) == 11_173_962
    assert size("resnet18", (8, 8, 1), 3, width=6) == resnet_size(6, 1, 3)
    assert size("vit", (32, 32, 3), 10) == vit_size((32, 32, 3), 10, 4, 192, 6, 4)
    small = size("vit", (28, 28, 1), 7, patch=7, dim=12, depth=2, heads=3, mlp_ratio=1)
    assert small == vit_size((28, 28, 1), 7, 7, 12, 2, 1)


def test_skips_go_around_what_keeps_the_shape():
    """With all kernels but the first of each stage at 0, skips pass the feature maps on and nothing else does."""
    with_skip, without = build("cnn", depth=2, skip=True), build("cnn", depth=2)
    params = {
        name: jax.tree.map(jnp.zeros_like, layer) if "conv" in name and not name.endswith("_0") else layer
        for name, layer in with_skip.params.items()
    }
    x = inputs_of((8, 8, 1))
    assert jnp.std(apply(with_skip.apply_fn, params, x)) > 0
    assert jnp.std(apply(without.apply_fn, params, x), axis=0).max() == 0


@pytest.mark.parametrize("name", SMALL)
def test_examples_do_not_see_each_other(name):
    model, x = build(name), inputs_of((8, 8, 1))
    apply_fn = model.apply_fn

    @jax.jit
    def compare(params, x):
        single = jax.vmap(lambda one: apply_fn(params, one[None])[0])(x)
        return apply_fn(params, x), single, apply_fn(params, x.at[1:].multiply(3.0))

    batch, single, changed = compare(model.params, x)
    tol = 1e4 * np.finfo(np.float32).eps * float(jnp.max(jnp.abs(batch)))
    np.testing.assert_allclose(single, batch, atol=tol)
    np.testing.assert_allclose(changed[0], batch[0], atol=tol)


@pytest.mark.parametrize("name", SMALL)
def test_hessian_products_are_symmetric_and_the_same_in_all_modes(name):
    model, x = build(name), inputs_of((8, 8, 1))
    labels = jnp.arange(4) % 3

    def objective(params):
        return -jnp.mean(jax.nn.log_softmax(model.apply_fn(params, x))[jnp.arange(4), labels])

    def normal(seed):
        leaves, treedef = jax.tree.flatten(model.params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        return jax.tree.unflatten(treedef, [jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)])

    def dot(a, b):
        return sum(float(jnp.sum(x * y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    gradient = jax.grad(objective)
    forward = jax.jit(lambda params, v: jax.jvp(gradient, (params,), (v,))[1])
    u, v = normal(1), normal(2)
    hu, hv = forward(model.params, u), forward(model.params, v)
    norm = dot(hv, hv) ** 0.5
    assert np.isfinite(norm)
    assert norm > 0
    tol = 1e4 * np.finfo(np.float32).eps
    assert abs(dot(u, hv) - dot(v, hu)) < tol * dot(u, u) ** 0.5 * norm
    if name == "resnet18":  # more modes of a deep network are mostly compilation time
        return

    @jax.jit
    def other_modes(params, v):
        return jax.vjp(gradient, params)[1](v)[0], jax.linearize(gradient, params)[1](v)

    for other in other_modes(model.params, v):
        difference = jax.tree.map(jnp.subtract, hv, other)
        assert dot(difference, difference) ** 0.5 < tol * norm


def test_group_norm_scores_do_not_depend_on_the_scale_of_the_image():
    model, x = build("resnet18"), inputs_of((8, 8, 1))
    one, ten = (apply(model.apply_fn, model.params, scale * x) for scale in (1.0, 10.0))
    np.testing.assert_allclose(one, ten, atol=1e-3 * float(jnp.max(jnp.abs(one))))


def test_same_key_same_parameters():
    a, b, c = build("mlp"), build("mlp"), build("mlp", seed=1)
    same = [np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a.params, b.params)), strict=True)]
    assert all(same)
    assert not np.array_equal(a.params["head"]["kernel"], c.params["head"]["kernel"])


@pytest.mark.parametrize("name", SMALL)
def test_equal_models_have_equal_functions_and_one_trace(name):
    args = name, (8, 8, 1), 3
    a, params = function_and_struct(*args, **SMALL[name])
    b, _ = function_and_struct(*args, **SMALL[name])
    other, _ = function_and_struct(*args, **SMALL[name], activation="silu")
    assert a is not b
    assert a == b
    assert hash(a) == hash(b)
    assert a != other
    traces = 0

    def scores(apply_fn, params, x):
        nonlocal traces
        traces += 1
        return apply_fn(params, x)

    jitted = jax.jit(scores, static_argnums=0)
    _abstract.cache_clear()  # the module is then first built inside the trace
    inputs = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    jitted.lower(a, params, inputs)
    jitted.lower(b, params, inputs)
    assert traces == 1
    jitted.lower(other, params, inputs)
    assert traces == 2


def test_defaults_and_lists_do_not_change_the_function():
    key = jax.random.key(0)
    plain = create_model("mlp", key, (8, 8, 1), 3)
    spelled = create_model("mlp", key, [8, 8, 1], np.int64(3), activation="tanh", hidden=[64, 64])
    assert plain.apply_fn == spelled.apply_fn
    assert hash(plain.apply_fn) == hash(spelled.apply_fn)
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(spelled.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_linear_model_and_mlp_match_the_formula():
    x = inputs_of((8, 8, 1))
    flat = x.reshape(4, -1)
    linear = build("mlp", hidden=())
    head = linear.params["head"]
    np.testing.assert_allclose(
        linear.apply_fn(linear.params, x), flat @ head["kernel"] + head["bias"][None], rtol=1e-5, atol=1e-5
    )
    mlp = build("mlp", hidden=(5,), activation="relu")
    first, head = mlp.params["hidden_0"], mlp.params["head"]
    hidden = jnp.maximum(flat @ first["kernel"] + first["bias"][None], 0)
    np.testing.assert_allclose(
        mlp.apply_fn(mlp.params, x), hidden @ head["kernel"] + head["bias"][None], rtol=1e-5, atol=1e-5
    )


def test_more_than_ten_layers_keep_their_order():
    apply_fn, params = function_and_struct("mlp", (8, 8, 1), 3, hidden=tuple(range(3, 15)))
    assert params["hidden_11"]["kernel"].shape == (13, 14)
    assert jax.eval_shape(apply_fn, params, jnp.zeros((4, 8, 8, 1))).shape == (4, 3)


@pytest.mark.parametrize(
    ("name", "options", "kind", "match"),
    [
        ("resnet", {}, ValueError, "model: expected one of mlp, .*; got 'resnet'; did you mean 'resnet18'?"),
        ("mlp", {"hiden": 3}, TypeError, "one of hidden, activation; got 'hiden'; did you mean 'hidden'?"),
        ("mlp", {"rngs": 0}, TypeError, "rngs: expected an option of mlp"),
        ("mlp", {"hidden": 3}, TypeError, r"hidden: expected a tuple of positive integers, got 3; write \(3,\)"),
        ("mlp", {"hidden": (3, 0)}, ValueError, "hidden: expected an integer of at least 1, got 0"),
        ("mlp", {"hidden": {}}, TypeError, "hidden: expected a number, a string or a tuple of them, got dict"),
        ("mlp", {"activation": "tan"}, ValueError, "activation: expected one of tanh, .*; did you mean 'tanh'?"),
        ("vit", {"patch": 3}, ValueError, "patch: expected a divisor of the image's sides 8 and 8, got 3"),
        ("vit", {"dim": 10, "heads": 4}, ValueError, "heads: expected a divisor of dim = 10, got 4"),
        ("cnn", {"skip": 1}, TypeError, "skip: expected True or False, got 1"),
        ("resnet18", {"width": 0}, ValueError, "width: expected an integer of at least 1, got 0"),
    ],
)
def test_bad_options(name, options, kind, match):
    with pytest.raises(kind, match=match) as error:
        create_model(name, jax.random.key(0), (8, 8, 1), 3, **options)
    assert "\n" not in str(error.value)


def test_bad_shapes_and_keys():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"input_shape: expected \(height, width, channels\), got"):
        create_model("mlp", key, (8, 8), 3)
    with pytest.raises(ValueError, match="input_shape: expected images of at least 4x4"):
        create_model("lenet", key, (3, 8, 1), 3)
    with pytest.raises(ValueError, match="num_classes"):
        create_model("mlp", key, (8, 8, 1), 0)
    with pytest.raises(TypeError, match="expected one typed PRNG key"):
        create_model("mlp", jax.random.PRNGKey(0), (8, 8, 1), 3)
    model = build("mlp")
    for wrong in ((8, 8, 1), (2, 8, 8, 3)):
        with pytest.raises(ValueError, match=r"inputs: expected shape \(batch, 8, 8, 1\)"):
            model.apply_fn(model.params, jnp.zeros(wrong))

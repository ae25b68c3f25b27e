"""Gauss rules of random probes by Lanczos: of all of them, or of as many as an estimate needs.

A host loop keeps the rules that it has in a file, beside which the run of the probe at hand has its own; what is kept
of a finished probe is its rule alone.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax._current_mesh import on_its_mesh
from cljax._in_flight import landed
from cljax._joined import Joined
from cljax._layout import Layout, layout_of
from cljax._quick import quick_jit
from cljax._typing import PyTree
from cljax.curvature.base import LinearOperator
from cljax.spectral.across_probes import probed_estimate
from cljax.spectral.driver import apply_product, linearized, run_lanczos
from cljax.spectral.estimate import Estimate, mean_and_error, within
from cljax.spectral.gauss_rule import Rule, tridiagonal_rule
from cljax.spectral.host_loop import HostLoop
from cljax.spectral.host_numbers import lies_near, numbers_on_host, on_device_of
from cljax.spectral.krylov import KrylovState
from cljax.spectral.memory import run_layout
from cljax.spectral.probes import one_vector
from cljax.spectral.projected import compiled_on_device
from cljax.spectral.recurrence import unit_probe
from cljax.spectral.ritz import projected_eigh, residual_norms
from cljax.spectral.rounds import look_schedule
from cljax.spectral.run_file import fingerprint, load_arrays, save_arrays
from cljax.spectral.three_term import three_term_run


def probe_rules(
    driver: Any,
    op: LinearOperator,
    keys: jax.Array,
    num_steps: int,
    reorthogonalize: bool,
    known: PyTree | None = None,
) -> Rule:
    """The rule of each probe.

    Args:
        driver: "compiled" or a ``HostLoop``.
        op: symmetric operator.
        keys: (num_probes, 2), of each probe and of all else that is random in its run.
        num_steps: static, m.
        reorthogonalize: static, with a basis or by three terms.
        known: None, or orthonormal vectors with leaves (k, *shape) to which the probes are made orthogonal.

    Returns:
        The rules, (num_probes, m).

    Raises:
        ValueError: if a file of the loop is broken, or that of another run.
    """
    if driver == "compiled":
        with on_its_mesh(op.struct):
            return landed(_compiled(op, keys, known, num_steps, reorthogonalize, layout_of(op.struct)))
    rules = list(_on_host(driver, op, keys, num_steps, reorthogonalize, known))
    return jax.tree.map(lambda *rows: jnp.stack(rows), *rules)


def estimate_from_rules(
    driver: Any,
    op: LinearOperator,
    keys: jax.Array,
    num_steps: int,
    reorthogonalize: bool,
    sample: Callable[..., jax.Array],
    args: tuple[Any, ...],
    tol: float | None,
    min_probes: int,
) -> Estimate:
    """Mean over probes of a number that a rule gives, until its standard error meets a tolerance.

    Args:
        driver: as for ``probe_rules``.
        op: as for ``probe_rules``.
        keys: as for ``probe_rules``, of the most probes.
        num_steps: as for ``probe_rules``.
        reorthogonalize: as for ``probe_rules``.
        sample: static, ``sample(rules, *args)`` of rules (p, m) -> (p,); a function of a module.
        args: pytrees of arrays, handed on.
        tol: None for all probes, or what counts as converged, relative to the mean.
        min_probes: static, probes before the first look at the error.

    Returns:
        The estimate; with ``tol`` it cannot be differentiated in reverse mode.
    """
    num_probes = keys.shape[0]
    if tol is None:
        rules = probe_rules(driver, op, keys, num_steps, reorthogonalize)
        return landed(probed_estimate(sample(rules, *args), num_steps * num_probes))
    looks = look_schedule(num_probes, min_probes)
    count: Any = 0
    if driver == "compiled":
        options = {"num_steps": num_steps, "reorthogonalize": reorthogonalize, "layout": layout_of(op.struct)}
        with on_its_mesh(op.struct):
            samples, count = landed(_until(op, keys, jnp.asarray(tol), args, sample=sample, looks=looks, **options))
    else:
        samples = jnp.zeros(num_probes, jnp.result_type(*jax.tree.leaves(op.struct), jnp.float32))
        for rule in _on_host(driver, op, keys, num_steps, reorthogonalize):
            samples = samples.at[count].set(sample(_alone(rule), *args)[0])
            count += 1
            if count in looks and _settled(samples, count, tol):
                break
    mean, error = mean_and_error(samples, count)
    count = jnp.asarray(count, jnp.int32)
    enough = within(mean, error, tol) & (count >= min_probes)
    return landed(Estimate(mean, error, num_steps * count, count, enough))


@partial(jax.jit, static_argnames=("num_steps", "reorthogonalize", "layout"))
def _compiled(
    op: LinearOperator,
    keys: jax.Array,
    known: PyTree | None,
    num_steps: int,
    reorthogonalize: bool,
    layout: Layout | None,
) -> Rule:
    return jax.lax.map(_rule_fn(op, num_steps, reorthogonalize, layout, known), keys)


@partial(jax.jit, static_argnames=("num_steps", "reorthogonalize", "layout", "sample", "looks"))
def _until(
    op: LinearOperator,
    keys: jax.Array,
    tol: jax.Array,
    args: tuple[Any, ...],
    num_steps: int,
    reorthogonalize: bool,
    layout: Layout | None,
    sample: Callable[..., jax.Array],
    looks: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    one, num_probes = _rule_fn(op, num_steps, reorthogonalize, layout), keys.shape[0]
    due = np.isin(np.arange(num_probes + 1), looks)

    def take(key: jax.Array) -> jax.Array:
        return sample(_alone(one(key)), *args)[0]

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        samples, count, _ = carry
        samples, count = samples.at[count].set(take(keys[count])), count + 1
        return samples, count, jnp.asarray(due)[count] & _settled(samples, count, tol)

    def go_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return ~carry[2] & (carry[1] < num_probes)

    samples = jnp.zeros(num_probes, jax.eval_shape(take, keys[0]).dtype)
    return jax.lax.while_loop(go_on, step, (samples, jnp.zeros((), jnp.int32), jnp.array(False)))[:2]


def _alone(rule: Rule) -> Rule:
    return jax.tree.map(lambda x: x[None], rule)


@quick_jit
def _settled(samples: jax.Array, count: Any, tol: Any) -> jax.Array:
    """Whether the tolerance is met, or nothing finite is left to estimate."""
    mean, error = mean_and_error(samples, count)
    return within(mean, error, tol) | ~jnp.isfinite(mean)


def _on_host(
    loop: HostLoop,
    op: LinearOperator,
    keys: jax.Array,
    num_steps: int,
    reorthogonalize: bool,
    known: PyTree | None = None,
) -> Iterator[Rule]:
    product: Any = None if reorthogonalize else linearized(op)
    layout = layout_of(op.struct)
    path, parts, rules = None, {}, list[Rule]()
    if loop.checkpoint is not None:
        path = pathlib.Path(loop.checkpoint)
        parts = fingerprint(
            op, {"keys": keys, "known pairs": known}, {"products": num_steps, "reorthogonalize": reorthogonalize}
        )
        saved = load_arrays(path, parts, Rule._fields)
        if saved is not None:
            rules = [Rule(*map(jnp.asarray, row)) for row in zip(*(saved[x] for x in Rule._fields), strict=True)]
            _check_first(path, rules[0], op, _placed(_probe(keys[0, 0], op, known, layout), op, layout))
        yield from rules
    for index in range(len(rules), keys.shape[0]):
        own = None if path is None else path.with_name(f"{path.name}.probe{index}")
        if reorthogonalize:
            state = _run(dataclasses.replace(loop, checkpoint=own), op, keys[index], num_steps, known, layout)
            near = lies_near(state)
            rule = _rule(numbers_on_host(state) if near else state, num_steps)
            rules.append(on_device_of(state, rule) if near else landed(rule))
        else:
            probe = _placed(_probe(keys[index, 0], op, known, layout), op, layout)
            rules.append(landed(tridiagonal_rule(*three_term_run("host", product, op.struct, probe, num_steps))))
        if path is not None and own is not None:
            saved_rules = zip(Rule._fields, zip(*rules, strict=True), strict=True)
            save_arrays(path, parts, {name: np.stack(rows) for name, rows in saved_rules})
            own.unlink(missing_ok=True)
        yield rules[-1]


def _placed(probe: PyTree, op: LinearOperator, layout: Layout | None) -> PyTree:
    """A vector as a run keeps it."""
    return tree.place_like(probe, op.struct) if layout is None else _rows(probe, layout)


_rows = quick_jit(lambda vector, layout: layout.rows(vector), static_argnums=1)
_vdot = quick_jit(tree.vdot)


def _check_first(path: pathlib.Path, rule: Rule, op: LinearOperator, probe: PyTree) -> None:
    """Require the mean of the first rule to be ⟨z, A z⟩: an operator may hold data that its fingerprint cannot know."""
    found = float(_vdot(probe, tree.to_work(apply_product(linearized(op), op.struct, probe))))
    nodes, weights = (np.asarray(x, np.float64) for x in (rule.nodes, rule.weights))
    scale = np.sqrt(np.sum(weights * nodes**2))
    if np.isfinite(scale) and not abs(found - np.sum(weights * nodes)) <= scale * np.finfo(rule.nodes.dtype).eps ** 0.5:
        raise ValueError(
            f"checkpoint: {path} is of another operator or other data: its first product does not come out again; "
            "delete it, or give another path"
        )


def _rule_fn(
    op: LinearOperator, num_steps: int, reorthogonalize: bool, layout: Layout | None, known: PyTree | None = None
) -> Callable[[jax.Array], Rule]:
    product: Any = None if reorthogonalize else op.linearize()

    def one(keys: jax.Array) -> Rule:
        if reorthogonalize:
            return _rule(_run("compiled", op, keys, num_steps, known, layout), num_steps)
        probe = _probe(keys[0], op, known, layout)
        probe = probe if layout is None else layout.rows(probe)
        return tridiagonal_rule(*three_term_run("compiled", product, op.struct, probe, num_steps))

    return one


def _run(
    driver: Any, op: LinearOperator, keys: jax.Array, num_steps: int, known: PyTree | None, layout: Layout | None
) -> KrylovState:
    joined = run_layout(op)
    if known is None and driver != "compiled" and isinstance(joined, Joined):
        probe: PyTree = one_vector(unit_probe, keys[0], op.struct, joined)
    else:
        probe = _probe(keys[0], op, known, layout)
    return run_lanczos(driver, op, probe, keys[1], num_steps)


def _probe(key: jax.Array, op: LinearOperator, known: PyTree | None, layout: Layout | None) -> PyTree:
    """The unit probe of a key, orthogonal to what is known."""
    if known is None:
        return one_vector(unit_probe, key, _shapes(op))
    return _without(normal_probe(key, op), known, layout)


def normal_probe(key: jax.Array, op: LinearOperator) -> PyTree:
    """Normal entries: the part beside some vectors has no preferred direction, so that its rules are unbiased."""
    return one_vector(_normal, key, _shapes(op))


def _normal(key: jax.Array, struct: PyTree) -> PyTree:
    return tree.random_like(key, tree.work_struct(struct))


def _shapes(op: LinearOperator) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), op.struct)


@quick_jit(static_argnames="layout")
def _without(probe: PyTree, known: PyTree, layout: Layout | None) -> PyTree:
    """The unit vector of what a probe has beside orthonormal vectors."""
    if layout is not None:
        probe, known = layout.rows(probe), layout.rows_of(known)

    def once(_: jax.Array, v: PyTree) -> PyTree:
        return tree.sub(v, tree.basis_combine(known, tree.basis_dot(known, v), v))

    rest = jax.lax.fori_loop(0, 2, once, probe)
    return tree.from_rows(tree.normalize(rest, tree.norm(rest)))


@partial(compiled_on_device, static_argnames="num_steps")
def _rule(state: KrylovState, num_steps: int) -> Rule:
    values, vectors, _ = projected_eigh(state)
    residuals = residual_norms(state, values, vectors)[0]
    return Rule(values[:num_steps], vectors[0, :num_steps] ** 2, residuals[:num_steps])

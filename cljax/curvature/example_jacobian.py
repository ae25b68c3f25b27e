"""The Jacobian of one example's scores, in factors where the model's program shows them."""

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from cljax import tree
from cljax._pytree import pytree_dataclass, static
from cljax._typing import PyTree
from cljax.curvature.factored import Kernel, find_kernel
from cljax.curvature.program import Program, read_program
from cljax.curvature.row_conv import convolve_by_rows, transposes_pay_by_rows


@dataclasses.dataclass(frozen=True)
class ExampleModel:
    """A function of one example, read for the kernels among its parameters; made by ``read_model``.

    Attributes:
        program: the function's program.
        findings: for each parameter leaf the kernel that it is, or why it is none.
        structs: shapes and dtypes of the parameter leaves.
        scores: shape (K,) and dtype of the result.
    """

    program: Program
    findings: tuple[Kernel | str, ...]
    structs: tuple[jax.ShapeDtypeStruct, ...]
    scores: jax.ShapeDtypeStruct

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The leaves that are kernels."""
        return tuple(found for found in self.findings if isinstance(found, Kernel))

    @cached_property
    def plain(self) -> tuple[int, ...]:
        """Indices of the leaves whose rows of the Jacobian are formed."""
        return tuple(
            index
            for index, found in enumerate(self.findings)
            if not isinstance(found, Kernel) and self.program.uses[index]
        )

    def num_bytes(self, num_rows: int) -> int:
        """Bytes that ``num_rows`` derivatives of one example take, about."""
        rows = sum(math.prod(self.structs[index].shape) for index in self.plain)
        work = sum(kernel.num_values(num_rows) for kernel in self.kernels)
        itemsize = tree.work_dtype(self.scores.dtype).itemsize
        return itemsize * (self.program.num_values + num_rows * rows + work)

    def jacobian(self, params: PyTree, *args: PyTree) -> tuple[jax.Array, "ExampleJacobian"]:
        """Scores of one example, and their Jacobian.

        Args:
            params: pytree of floating arrays.
            *args: the other arguments.

        Returns:
            Scores (K,) in float32 at least, and the Jacobian.
        """
        leaves, inputs = jax.tree.leaves(params), jax.tree.leaves(args)
        sites = {site.step: site for kernel in self.kernels for site in kernel.sites}

        def run(taps: dict[int, jax.Array], plain: list[jax.Array]) -> tuple[jax.Array, dict[int, jax.Array]]:
            factors = {}

            def change(step: int, operands: list[Any], results: list[Any]) -> list[Any]:
                if step not in sites:
                    return results
                factors[step] = sites[step].input_factor(operands)
                eqn, result = sites[step].eqn, results[0]
                if transposes_pay_by_rows(eqn):
                    result = convolve_by_rows(eqn, operands)
                return [result + taps[step]]

            given = list(leaves)
            for index, leaf in zip(self.plain, plain, strict=True):
                given[index] = leaf
            return self.program.run(given, inputs, change)[0], factors

        taps = {step: jnp.zeros(site.result.shape, site.result.dtype) for step, site in sites.items()}
        plain = [leaves[index] for index in self.plain]
        scores, pull_fn, factors = jax.vjp(run, taps, plain, has_aux=True)
        return scores.astype(tree.work_dtype(scores.dtype)), ExampleJacobian(
            self.kernels, self.scores, pull_fn, factors
        )


@pytree_dataclass
class ExampleJacobian:
    """The Jacobian J of one example's scores; it lives inside of one trace.

    Attributes:
        kernels: the leaves that are kernels.
        scores: shape (K,) and dtype.
        pull_fn: derivatives of a combination of the scores in the sites' results, by step, and in the plain leaves.
        factors: inputs (B, I, P) of each site, by step.
    """

    kernels: tuple[Kernel, ...] = static()
    scores: jax.ShapeDtypeStruct = static()
    pull_fn: Callable[..., Any]
    factors: dict[int, jax.Array]

    def gram(self, directions: jax.Array) -> jax.Array:
        """The matrix C J Jᵀ Cᵀ.

        Args:
            directions: C, rows (m, K) in the space of scores.

        Returns:
            Shape (m, m), symmetric, in float32 at least.
        """
        num_rows, num_scores = directions.shape
        dtype = self.scores.dtype
        # scores of half precision would round the directions: there unit vectors are pulled back, which are exact
        exact = jnp.finfo(dtype).bits >= 32 or num_rows < num_scores - 1
        pulled = directions.astype(dtype) if exact else jnp.eye(num_scores, dtype=dtype)
        deltas, rows = tree.to_work(jax.vmap(self.pull_fn)(pulled))
        if not exact:
            deltas, rows = jax.tree.map(lambda x: jnp.tensordot(directions.astype(x.dtype), x, 1), (deltas, rows))
        parts = [jnp.matmul(row, row.T) for row in (row.reshape(row.shape[0], -1) for row in rows)]
        for kernel in self.kernels:
            parts.append(kernel.gram(*self._of_sites(kernel, deltas)))
        total = sum(parts, jnp.zeros((num_rows, num_rows), tree.work_dtype(dtype)))
        return (total + total.T) / 2

    def multiply(self, directions: jax.Array) -> jax.Array:
        """The products J Jᵀ v: no array has as many entries as a kernel times their number.

        Args:
            directions: vectors v, rows (m, K).

        Returns:
            Their products (m, K), in float32 at least.
        """
        scores = self.scores
        deltas, rows = jax.vmap(self.pull_fn)(directions.astype(scores.dtype))
        changes = {}
        for kernel in self.kernels:
            pushed = kernel.push(*self._of_sites(kernel, deltas))
            for site, change in zip(kernel.sites, pushed, strict=True):
                back = jax.linear_transpose(site.output_factor, site.result)
                changes[site.step] = jax.vmap(lambda x, b=back: b(x)[0])(change.astype(site.result.dtype))
        # forward mode as the transpose of reverse mode: functions with a reverse mode of their own have no other
        push_fn = jax.linear_transpose(self.pull_fn, scores)
        found = jax.vmap(lambda change, row: push_fn((change, row))[0])(changes, rows)
        return found.astype(tree.work_dtype(scores.dtype))

    def _of_sites(self, kernel: Kernel, deltas: dict[int, jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        inputs = [self.factors[site.step] for site in kernel.sites]
        outputs = [jax.vmap(site.output_factor)(deltas[site.step]) for site in kernel.sites]
        work = jnp.result_type(*inputs, *outputs)
        return [x.astype(work) for x in inputs], [d.astype(work) for d in outputs]


def read_model(fn: Callable[..., jax.Array], params: PyTree, *args: PyTree) -> ExampleModel:
    """Read the program of a function of one example.

    Args:
        fn: ``fn(params, *args) -> scores`` of shape (K,), for one example.
        params: pytree of floating arrays, or their shapes.
        *args: its other arguments, or their shapes.

    Returns:
        The model.
    """
    program = read_program(fn, params, *args)
    structs = tuple(jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(params))
    findings = tuple(find_kernel(program, leaf) for leaf in range(len(structs)))
    return ExampleModel(program, findings, structs, program.structs[0])


def read_apply(apply_fn: Any, params: PyTree, inputs: PyTree) -> ExampleModel:
    """Read the program of a model that takes batches.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> scores`` of shape (batch, K).
        params: pytree of floating arrays.
        inputs: pytree of arrays with leading axis (batch, ...), at least one example.

    Returns:
        The function of ``params`` and one example, without the batch axis.
    """
    return read_model(
        lambda p, x: apply_fn(p, jax.tree.map(lambda leaf: leaf[None], x))[0], params, first_example(inputs)
    )


def first_example(examples: PyTree) -> PyTree:
    """Shapes of one example of many.

    Args:
        examples: pytree of arrays with leading axis (n, ...).

    Returns:
        Shapes and dtypes without that axis.
    """
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), examples)

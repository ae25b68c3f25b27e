"""What 90 Lanczos steps cost, in units of the 90 Hessian products that they take.

The products of the compiled loop are those of one compiled loop that does nothing else than to divide by the norm, so
that each depends on the one before; the products of the host loop are dispatched one by one. Everything beyond them is
the orthogonalization, as a rule one pass over all vectors, and the loop itself. Counting 2 for a multiplication with an
addition, a pass over a basis of m vectors of length n is 4 m n operations and reads the basis twice, at the speed of
the memory; a product with a dense network takes about 12 n operations for each example. The ratio falls as the batch
grows.
"""

import dataclasses
import functools
from typing import Any

import jax
from rich.table import Table

from benchmarks.harness import Program, compile_program, empty_table, ratio_spread, runner, spread, time_interleaved
from benchmarks.problems import Problem
from cljax import curvature, spectral, tree
from cljax.spectral.driver import apply_product, linearized

NUM_STEPS = 90
TARGET = 1.2
"""Most time of the steps, in their products."""

DRIVERS = ("compiled", "host")


def measure(problem: Problem, repeats: int, num_steps: int = NUM_STEPS) -> list[dict[str, Any]]:
    """Time the steps and their products against each other.

    Args:
        problem: the network and its batch.
        repeats: timed calls of each program; 0 runs nothing.
        num_steps: Lanczos steps.

    Returns:
        Rows, first of a gradient: problem, operator, form; FLOPs, where XLA counts them; seconds, the same in gradients
        and in the products of the same loop as ``harness.Spread`` (None where nothing was timed), the target for the
        latter and whether it was met.
    """
    op = curvature.hessian(problem.objective, problem.params, problem.batch)
    vector = tree.random_like(jax.random.key(1), op.struct)
    gradient = compile_program(jax.grad(problem.objective), problem.params, problem.batch)
    loop = compile_program(functools.partial(_products, num_steps=num_steps), op, vector)
    programs = {("gradient", ""): gradient, ("products", "compiled"): loop}
    if repeats:
        programs["products", "host"] = Program(functools.partial(_products_on_host, op, vector, num_steps), None, 0.0)
        for driver in DRIVERS:
            run = functools.partial(spectral.lanczos, op, vector, num_steps, driver=driver)
            programs["lanczos", driver] = Program(run, None, 0.0)
    seconds: dict[Any, list[float]] = time_interleaved(programs, repeats) if repeats else {}
    return [_row(problem, key, program, seconds) for key, program in programs.items()]


def _products(op: Any, vector: Any, num_steps: int) -> Any:
    product = op.linearize()

    def step(_: jax.Array, v: Any) -> Any:
        w = product(v)
        return tree.normalize(w, tree.norm(w))

    return jax.lax.fori_loop(0, num_steps, step, vector)


def _products_on_host(op: Any, vector: Any, num_steps: int) -> Any:
    product = linearized(op)
    for _ in range(num_steps):
        vector = apply_product(product, op.struct, vector)
    return vector


def _row(
    problem: Problem, key: tuple[str, str], program: Program, seconds: dict[tuple[str, str], list[float]]
) -> dict[str, Any]:
    operator, form = key
    taken = seconds.get(key)
    in_products = ratio_spread(taken, seconds["products", form]) if taken and operator == "lanczos" else None
    return {
        "problem": problem.name,
        "operator": operator,
        "form": form,
        "flops": program.flops,
        "seconds": dataclasses.asdict(spread(taken)) if taken else None,
        "time_in_gradients": dataclasses.asdict(ratio_spread(taken, seconds["gradient", ""])) if taken else None,
        "time_in_products": dataclasses.asdict(in_products) if in_products else None,
        "time_target": TARGET if operator == "lanczos" else None,
        "target_met": in_products.median <= TARGET if in_products else None,
    }


def _table(problem: Problem, rows: list[dict[str, Any]]) -> Table:
    config = problem.config
    title = f"{problem.name}: batch {config['batch_size']}, {config['num_params']:,} parameters, {NUM_STEPS} steps"
    numbers = ("time /\nproducts", "target", "quartiles", "time /\ngradient", "median\nms")
    table = empty_table(title, ("what",), numbers)
    for row in rows:
        ratio, seconds, gradients = row["time_in_products"], row["seconds"], row["time_in_gradients"]
        table.add_row(
            f"{row['operator']} {row['form']}".rstrip(),
            f"{ratio['median']:.2f}" if ratio else "",
            f"≤ {TARGET:.2f} {'[green]pass[/]' if row['target_met'] else '[red]FAIL[/]'}" if ratio else "",
            f"{ratio['lower_quartile']:.2f}-{ratio['upper_quartile']:.2f}" if ratio else "",
            f"{gradients['median']:.1f}" if gradients else "-",
            f"{1e3 * seconds['median']:.1f}" if seconds else "-",
        )
    return table


run = runner(measure, _table)

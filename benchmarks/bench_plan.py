"""Tables of predicted costs: transformers of four sizes on 1 to 512 devices, written as Markdown and JSON.

Everything is arithmetic on shapes (``cljax.spectral.predict_cost``); nothing is compiled or run. The rates of a device
are assumptions, named in the tables.
"""

import dataclasses
import pathlib
from typing import Any

from rich.console import Console

from benchmarks.harness import FORMAT, prepare_tables, write_results
from cljax._plan_report import duration, words
from cljax.spectral.rates import Rates
from cljax.training.plan import PlanConfig, plan_run

SIZES = ("124M", "1.3B", "7B", "70B")
DEVICES = (1, 8, 64, 512)
LAYOUTS: dict[str, tuple[str, ...]] = {"split (fsdp)": ("fsdp",), "whole": ()}
CONTEXT = 2048
RATES = Rates(flops=45e12, memory=2.7e12, link=25e9)
MEMORY = 80e9
NUM_PRODUCTS = 90
HEADINGS = (
    "devices",
    "parameters",
    "parameters, batch, vectors",
    "activations",
    "basis",
    "basis bytes",
    "all bytes",
    "fits",
    "FLOP/product",
    "sent/product",
    "compute",
    "communicate",
    "orthogonalize",
    "total",
)


def rows() -> list[dict[str, Any]]:
    """A row for each size, number of devices, layout and way to keep the basis.

    Returns:
        Dicts of numbers; bytes, operations and seconds are those of one device.
    """
    found = []
    for size in SIZES:
        for num in DEVICES:
            for layout, rules in LAYOUTS.items():
                if num == 1 and rules:
                    continue
                config = PlanConfig(
                    size=size,
                    model_option=("remat=True",),
                    input_shape=(CONTEXT,),
                    batch_size=num,
                    microbatch_size=1,
                    mesh=f"data={num}",
                    shard=rules,
                    num_products=NUM_PRODUCTS,
                    device_memory=MEMORY,
                )
                for way in plan_run(config):
                    cost = dataclasses.asdict(way.cost) | {"device_bytes": way.cost.device_bytes}
                    seconds = way.cost.seconds(RATES)
                    row = {"size": size, "layout": layout, "mode": way.mode, "fits": way.fits}
                    found.append(row | cost | {"seconds": seconds})
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """The tables with their explanation.

    Args:
        found: from ``rows``.

    Returns:
        Markdown.
    """
    parts = [
        "# What a Lanczos run costs, before it is run",
        "",
        f"{NUM_PRODUCTS} Hessian products of the cross-entropy of a decoder-only transformer, float32, vocabulary "
        f"50,257, one sequence of {CONTEXT:,} tokens a device. Predicted from shapes as by `cljax plan` (`python -m "
        "benchmarks plan` writes this file); **nothing here was run**. All numbers are those of one device.",
        "",
        f"Rates assumed, not measured: {words(RATES.flops)}FLOP/s in float32, {words(RATES.memory)}B/s of memory, "
        f"{words(RATES.link or 0)}B/s sent: two thirds or so of what an H100's data sheet promises for the first, four "
        f"fifths for the second, and half of a 400 Gb/s network card. Memory {words(MEMORY)}B.",
        "",
        "The arithmetic:",
        "",
        "- A product is computed anew with `microbatch_size=1` and blocks under `jax.checkpoint`: jvp of the gradient. "
        "Activations are twice (values and tangents) what reverse mode stores by JAX's own account, and what the "
        "greatest checkpointed block computes again. XLA fuses some of it away.",
        "- Split parameters are gathered where they are used, forward and backward, and so is the vector: four times "
        "(D − 1)/D of 4 bytes a parameter, and the result is scattered as a sum, once. Whole parameters need one "
        "all-reduce of the result: 2 (D − 1)/D of it.",
        f"- The basis has {NUM_PRODUCTS + 1} float32 vectors (all), {PlanConfig.basis_size} (restarted; more products "
        "are needed for the same accuracy), all of them spread over the devices (sharded), or none (quadrature).",
        "- Orthogonalization reads the basis twice in each step. Its sums are of at most 91 numbers: latency only, not "
        "counted. Nothing overlaps in the seconds, which are for all products.",
        "",
    ]
    for size in SIZES:
        of_size = [row for row in found if row["size"] == size]
        parts += [f"## {size}: {of_size[0]['num_params']:,} parameters", "", _line(HEADINGS)]
        parts += [_line(["---"] + ["---"] * (len(HEADINGS) - 1))]
        parts += [_line(_cells(row)) for row in of_size] + [""]
    return "\n".join(parts)


def write(output: pathlib.Path, console: Console) -> None:
    """Calculate and write both files.

    Args:
        output: the Markdown file; the JSON file lies beside it.
        console: where to print.
    """
    prepare_tables(output)
    found = rows()
    output.write_text(markdown(found))
    settings = {"format": FORMAT, "benchmark": "plan", "rates": dataclasses.asdict(RATES), "device_memory": MEMORY}
    write_results(output.with_suffix(".json"), settings | {"rows": found})
    for path in (output, output.with_suffix(".json")):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


def _cells(row: dict[str, Any]) -> list[str]:
    held = row["parameters"] + row["batch"] + row["vectors"]
    sizes = [f"{words(value)}B" for value in (held, row["activations"])]
    basis = [row["mode"], f"{words(row['basis'])}B", f"{words(row['device_bytes'])}B", "yes" if row["fits"] else "no"]
    work = [words(row["product_flops"]), f"{words(row['product_sent'])}B"]
    seconds = [duration(value) for value in row["seconds"].values()]
    return [str(row["num_devices"]), row["layout"], *sizes, *basis, *work, *seconds]


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"

"""The command line of the benchmarks: run, compare, plan, scaling."""

import dataclasses
import pathlib
import sys
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from benchmarks import bench_lanczos, bench_plan, bench_products, bench_scaling, bench_structure
from benchmarks.compare import compare
from benchmarks.harness import FORMAT, environment, prepare_output, read_results, write_results
from benchmarks.problems import PROBLEMS, SIZES, create_problem
from cljax._checks import check_positive_int
from cljax._registry import lookup

BENCHMARKS = {"products": bench_products.run, "lanczos": bench_lanczos.run, "structure": bench_structure.run}
"""Benchmarks by name, called as ``run(problems, repeats, console)``; they print and return rows."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Run a benchmark: print tables and keep the numbers as JSON.

    "products": what a Hessian, a Gauss-Newton and a tangent-kernel product cost in units of a gradient of the same
    batch, by XLA's FLOP count and by time, with the project's targets.

    "lanczos": what 90 Lanczos steps cost in units of their 90 Hessian products, by time, with the project's target.

    "structure": what the structure matrices of a batch cost, in gradients and against whole rows of Jacobians.

    $ python -m benchmarks run products --problems mlp lenet --repeats 10

    $ python -m benchmarks run products --problems resnet18 --size full --repeats 0
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=f"One of: {', '.join(BENCHMARKS)}.", metavar="NAME")]
    problems: Annotated[
        tuple[str, ...], tyro.conf.arg(help=f"Networks, of: {', '.join(PROBLEMS)}.", metavar="[NAME ...]")
    ] = tuple(PROBLEMS)
    size: Annotated[
        str, tyro.conf.arg(help=f"One of: {', '.join(SIZES)}. auto is cpu on CPUs, else full.", metavar="SIZE")
    ] = "auto"
    batch_size: int | None = None
    """Examples in the batch, in place of those that the size has."""
    width: int | None = None
    """Channels of the first stage of resnet18, in place of those that the size has."""
    repeats: int = 20
    """Timed calls of each program; 0 compiles and counts FLOPs alone, at any size on any machine."""
    output: pathlib.Path | None = None
    """JSON file of the results; runs/benchmarks/NAME.json where it is not given."""

    def run(self, console: Console) -> None:
        """Check everything, measure, write."""
        benchmark = lookup("benchmark", BENCHMARKS, self.name)
        for name in self.problems:
            lookup("problem", PROBLEMS, name)
        lookup("size", dict.fromkeys(SIZES), self.size)
        if self.width is not None and "resnet18" not in self.problems:
            raise ValueError("width: expected resnet18 among the problems, the only one that has it")
        repeats = check_positive_int("repeats", self.repeats, minimum=0)
        output = self.output or pathlib.Path("runs", "benchmarks", f"{self.name}.json")
        prepare_output(output)
        configs: dict[str, Any] = {}

        def problems() -> Any:
            for name in dict.fromkeys(self.problems):
                problem = create_problem(name, self.size, batch_size=self.batch_size, width=self.width)
                configs[name] = problem.config
                yield problem

        found = environment()
        console.print(f"jax {found['jax']} on {found['device']}, {found['num_cpus']} CPUs", highlight=False)
        rows = benchmark(problems(), repeats, console)
        settings = {"format": FORMAT, "benchmark": self.name, "repeats": repeats, "environment": found}
        write_results(output, settings | {"problems": configs, "rows": rows})
        console.print(f"wrote {output}", soft_wrap=True, highlight=False)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare two result files: ratios new / old of the medians, with those flagged that are beyond the spreads.

    $ python -m benchmarks compare benchmarks/results/products.json runs/benchmarks/products.json
    """

    old: tyro.conf.Positional[pathlib.Path]
    """Results to compare with."""
    new: tyro.conf.Positional[pathlib.Path]
    """Results in question."""

    def run(self, console: Console) -> None:
        """Read and print."""
        compare(read_results(self.old), read_results(self.new), console)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Predict the cost of Lanczos runs of transformers of 124 M to 70 B parameters on 1 to 512 devices; runs nothing.

    $ python -m benchmarks plan
    """

    output: pathlib.Path = pathlib.Path("benchmarks", "results", "plan.md")
    """Markdown file to write; a JSON file beside it."""

    def run(self, console: Console) -> None:
        """Calculate and write."""
        bench_plan.write(self.output, console)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Weak scaling of a Hessian product on 1, 2, 4 and 8 devices; of CPUs there are eight that share the cores.

    $ python -m benchmarks scaling
    """

    size: str = "cpu"
    """Size of the network: full, cpu or tiny."""
    num_examples: int = 64
    """Examples on each device."""
    repeats: int = 20
    """Timed calls of each program."""
    output: pathlib.Path = pathlib.Path("benchmarks", "results", "scaling.md")
    """Markdown file to write; a JSON file beside it."""

    def run(self, console: Console) -> None:
        """Measure and write."""
        lookup("size", dict.fromkeys(SIZES), self.size)
        num_examples = check_positive_int("num_examples", self.num_examples)
        jax.config.update("jax_num_cpu_devices", max(bench_scaling.DEVICES))  # before the first use of a device
        bench_scaling.write(self.size, num_examples, check_positive_int("repeats", self.repeats), self.output, console)


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Scaling, tyro.conf.subcommand("scaling")]
)


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one line on standard error.

    Args:
        argv: arguments, those of the process where None.

    Returns:
        Exit code: 0, 2 for wrong input, 130 where interrupted.
    """
    command: Run | Compare | Plan | Scaling = tyro.cli(
        Command,
        prog="python -m benchmarks",
        description="Benchmarks of cljax. Start with: python -m benchmarks run products --problems mlp",
        args=argv,
    )
    try:
        command.run(Console())
    except (ValueError, TypeError, OSError) as error:
        print(f"benchmarks: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: error: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

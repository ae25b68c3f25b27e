"""The command line of the benchmarks: run, compare, report, plan, scaling."""

import dataclasses
import pathlib
import sys
from typing import Annotated

import jax
import tyro

from benchmarks import (
    bench_compile,
    bench_convolutions,
    bench_lanczos,
    bench_memory,
    bench_plan,
    bench_products,
    bench_scaling,
    bench_structure,
)
from benchmarks.compare import compare
from benchmarks.estimators import estimators_of, load_builtin, load_file
from benchmarks.harness import prepare_output, read_results
from benchmarks.machine import environment
from benchmarks.problems import PROBLEMS, SIZES, create_problem
from benchmarks.report import write_report
from benchmarks.store import Store
from benchmarks.suite import run_task
from benchmarks.tasks import TASKS
from cljax._checks import check_positive_int
from cljax._cpu_threads import enough_threads
from cljax._registry import did_you_mean, lookup
from cljax._unread import Console, reader_is_gone, write_nowhere

BENCHMARKS = {
    "products": bench_products.run,
    "lanczos": bench_lanczos.run,
    "structure": bench_structure.run,
    "compile": bench_compile.run,
    "memory": bench_memory.run,
    "convolutions": bench_convolutions.run,
}
"""Suites of networks alone, called as ``run(problems, repeats, console)``; they print and return rows."""

SUITES = (*BENCHMARKS, *TASKS)
"""All suites by name."""

_REGISTRABLE = {name: task for name, task in TASKS.items() if task.of is None}
"""Tasks with estimators of their own."""

RESULTS = pathlib.Path("benchmarks", "results")


@dataclasses.dataclass(frozen=True)
class Run:
    """Run suites: print what is measured and keep the numbers as JSON; what a file has already is not measured again.

    Each compares estimators, those of other packages included where they are installed, and there are six on
    networks of their own:

    "products": what a Hessian, a Gauss-Newton and a tangent-kernel product cost in units of a gradient of the same
    batch, by XLA's FLOP count and by time, with the project's targets.

    "lanczos": what 90 Lanczos steps cost in units of their 90 Hessian products, by time, with the project's target.

    "structure": what the structure matrices of a batch cost, in gradients and against whole rows of Jacobians.

    "convolutions": each convolution in a Hessian product, as it is and written by rows, and the products with both.

    "compile": first calls beside matfree's, and how soon a second command measures.

    "memory": bytes of each way to keep the vectors, by XLA's analysis.

    $ python -m benchmarks run --suite products --problems mlp lenet --repeats 10 --output runs/mine

    $ python -m benchmarks run --suite products --problems resnet18 --size full --repeats 0 --output runs/full

    $ python -m benchmarks run --suite extremes density --size tiny --output runs/tiny

    $ python -m benchmarks run extremes --size tiny --output runs/my --estimators benchmarks/examples/power_iteration.py
    """

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(help="The same as --suite; all suites where neither is given.", metavar="[NAME ...]"),
    ] = ()
    suite: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help=f"Suites: {', '.join(BENCHMARKS)}; "
            + "; ".join(f"{task.name}: {task.summary}" for task in TASKS.values())
            + ".",
            metavar="[NAME ...]",
        ),
    ] = ()
    size: Annotated[
        str, tyro.conf.arg(help=f"One of: {', '.join(SIZES)}. auto is small on CPUs, else full.", metavar="SIZE")
    ] = "auto"
    problems: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="Cases, or questions on them, such as 'mlp end, top 5'; all where not given. For the first six "
            f"suites of: {', '.join(PROBLEMS)}.",
            metavar="[NAME ...]",
        ),
    ] = ()
    estimators: tuple[pathlib.Path, ...] = ()
    """Python files that register further estimators, see benchmarks/README.md."""
    only: tuple[str, ...] = ()
    """Names of estimators, all of a suite where not given; those that a group has already are measured beside them."""
    batch_size: int | None = None
    """Examples in the batch of the first six suites, in place of those that the size has."""
    width: int | None = None
    """Channels of the first stage of resnet18 in the first six suites, in place of those that the size has."""
    repeats: int | None = None
    """Rounds of timing, 3 where not given, 10 for the first six suites; 0 counts products, FLOPs and bytes alone."""
    output: pathlib.Path | None = None
    """Folder of the results, one JSON file a suite, or for one suite the file; benchmarks/results/BACKEND-SIZE where it
    is not given."""
    overwrite: bool = False
    """Measure again what is there, of the problems asked for; the others stay."""

    def run(self, console: Console) -> None:
        """Check everything, measure, write."""
        names = tuple(dict.fromkeys((*self.names, *self.suite))) or SUITES
        for name in names:
            lookup("suite", dict.fromkeys(SUITES), name)
        lookup("size", dict.fromkeys(SIZES), self.size)
        if self.width is not None and "resnet18" not in (self.problems or PROBLEMS):
            raise ValueError("width: expected resnet18 among the problems, the only one that has it")
        repeats = None if self.repeats is None else check_positive_int("repeats", self.repeats, minimum=0)
        size = self.size if self.size != "auto" else "small" if jax.default_backend() == "cpu" else "full"
        groups = [group for name in names if name in TASKS for group in TASKS[name].groups(size)]
        problems = [*PROBLEMS] if set(names) & set(BENCHMARKS) else []
        problems += [word for group in groups for word in (group.case, group.key)]
        for name in self.problems:
            if name not in problems:
                among = ", ".join(f"'{known}'" for known in dict.fromkeys(problems))
                raise ValueError(f"problems: expected some of {among}; got {name!r}{did_you_mean(problems, name)}")
        paths = {name: self._path(name, len(names) == 1, size) for name in names}
        load_builtin()
        tasks = [TASKS[name].of or name for name in names if name in TASKS]
        for path in self.estimators:
            own = [lookup("task", _REGISTRABLE, found.task).name for found in load_file(path)]
            if tasks and not {*own} & {*tasks}:
                raise ValueError(f"estimators: expected one of {', '.join(tasks)} in {path}, got {', '.join(own)}")
        if self.only and not tasks:
            raise ValueError(
                f"only: expected a suite that compares estimators ({', '.join(TASKS)}); got {', '.join(names)}"
            )
        for name in self.only:
            lookup("estimator", {e.name: e for task in tasks for e in estimators_of(task)}, name)
        jax.config.update("jax_enable_compilation_cache", False)  # a first call shall compile
        machine = environment()
        console.print(
            f"jax {machine['jax']} on {machine['device']}, {machine['num_cpus']} CPUs", highlight=False, markup=False
        )
        for name, path in paths.items():
            if name in BENCHMARKS:
                self._networks(name, path, 10 if repeats is None else repeats, console)
            else:
                store = Store(path, name, {"size": size}, self.overwrite)
                rounds = 3 if repeats is None else repeats
                run_task(TASKS[name], size, store, rounds, console, cases=self.problems, names=self.only)
            console.print(f"{path}", soft_wrap=True, highlight=False, markup=False)

    def _path(self, name: str, alone: bool, size: str) -> pathlib.Path:
        folder = self.output or RESULTS / f"{jax.default_backend()}-{size}"
        path = folder if alone and folder.suffix == ".json" else folder / f"{name}.json"
        prepare_output(path)
        return path

    def _networks(self, benchmark: str, path: pathlib.Path, repeats: int, console: Console) -> None:
        store = Store(path, benchmark, {}, self.overwrite)
        default = bench_compile.PROBLEMS if benchmark == "compile" else PROBLEMS
        named = dict.fromkeys(self.problems or default)
        for name in (name for name in named if name in PROBLEMS):  # others are of other suites of this run
            batch_size = bench_compile.BATCH_SIZE if benchmark == "compile" else None
            batch_size = batch_size if self.batch_size is None else self.batch_size
            problem = create_problem(name, self.size, batch_size=batch_size, width=self.width)
            if store.has(problem.key, {}):
                console.print(f"{benchmark}: {problem.key}: is there", highlight=False, markup=False)
                continue
            began = environment()
            rows = BENCHMARKS[benchmark]([problem], repeats, console)
            store.put(problem.key, problem.key, problem.config, rows, began)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare two result files: ratios new / old of the medians, with those flagged that are beyond the spreads.

    $ python -m benchmarks compare benchmarks/results/cpu-small/products.json runs/mine/products.json
    """

    old: tyro.conf.Positional[pathlib.Path]
    """Results to compare with."""
    new: tyro.conf.Positional[pathlib.Path]
    """Results in question."""

    def run(self, console: Console) -> None:
        """Read and print."""
        compare(read_results(self.old), read_results(self.new), console)


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables and plots of a folder of results: report.md, and a PNG for each curve.

    $ python -m benchmarks report benchmarks/results/cpu-small
    """

    folder: tyro.conf.Positional[pathlib.Path] = RESULTS / "cpu-small"
    """Folder with the JSON files of suites."""

    def run(self, console: Console) -> None:
        """Read, draw, write."""
        console.print(f"wrote {write_report(self.folder)}", soft_wrap=True, highlight=False, markup=False)


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

    size: str = "small"
    """Size of the network: full, small or tiny."""
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
        num_devices = max(bench_scaling.DEVICES)
        jax.config.update("jax_num_cpu_devices", num_devices)  # before the first use of a device
        enough_threads(num_devices)
        bench_scaling.write(self.size, num_examples, check_positive_int("repeats", self.repeats), self.output, console)


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Scaling, tyro.conf.subcommand("scaling")]
)


def main(argv: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one line on standard error.

    Args:
        argv: arguments, those of the process where None.

    Returns:
        Exit code: 0, 2 for wrong input, 130 where interrupted, 141 where the reader of the output is gone.
    """
    try:
        command: Run | Compare | Report | Plan | Scaling = tyro.cli(
            Command,
            prog="python -m benchmarks",
            description="Benchmarks of cljax. Start with: python -m benchmarks run --suite extremes --size tiny",
            args=argv,
        )
        command.run(Console())
    except (ValueError, TypeError, OSError) as error:
        if reader_is_gone(error):
            return write_nowhere()
        print(f"benchmarks: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: error: interrupted; groups that were done are written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

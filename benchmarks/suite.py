"""Measures one group after another: counts products, scores answers, and times estimators against each other."""

import dataclasses
import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from rich.console import Console

from benchmarks.cases import Case
from benchmarks.counting import Counter
from benchmarks.estimators import Estimator, NotApplicableError, Request, estimators_of
from benchmarks.harness import Program, compile_program, ratio_spread, spread, time_interleaved
from benchmarks.machine import environment
from benchmarks.names import FIXED
from benchmarks.peak import anew, peak_bytes, resident_bytes
from benchmarks.store import Store
from benchmarks.tasks import Group, Task

SLOW = 8.0
"""Seconds of scored runs, the first left out, after which there are no further seeds; and seconds of a run above which
it is timed once, outside of the rounds."""

_UNIT = ("", 0)
"""Key of the unit of time; an estimator has a name."""

_COUNTER = Counter()
"""The one of all runs: a program that counts is compiled for its counter, and then serves every tolerance and case."""


def run_task(
    task: Task,
    size: str,
    store: Store,
    repeats: int,
    console: Console,
    *,
    cases: Sequence[str] = (),
    names: Sequence[str] = (),
) -> None:
    """Measure what the store does not have: of a group that it has, the estimators there beside what is new.

    Args:
        task: what to measure.
        size: one of ``tasks.base.SIZES``.
        store: where rows go.
        repeats: rounds of timing.
        console: where progress is printed.
        cases: their names, or keys of groups ("mlp end, top 5"); all where empty.
        names: of estimators, all where empty.
    """
    known = {e.name: e for e in estimators_of(task.of or task.name)}
    wanted = set(names or task.only or known) & set(known)
    if names and not wanted:
        console.print(f"{task.name}: has none of the estimators that are named", highlight=False, markup=False)
        return
    versions = {name: known[name].version for name in wanted}
    for group in task.groups(size):
        key = group.key
        if cases and not {group.case, key} & set(cases):
            continue
        if store.has(key, versions):
            console.print(f"{task.name}: {key}: is there", highlight=False, markup=False)
            continue
        # what is there is measured again beside what is new: rows of a group were timed against each other
        there = store.estimators(key)
        if unknown := ", ".join(sorted(there - set(known))):
            text = f"is left as it is, since it has {unknown}; name its file with --estimators, or another --output"
            console.print(f"{task.name}: {key}: {text}", highlight=False, markup=False)
            continue
        chosen = [known[name] for name in known if name in wanted | there]
        start, began = time.perf_counter(), environment()
        try:
            case = group.make()
            with console.status(f"{task.name}: {key}"):
                rows = measure_group(task, group, case, size, chosen, repeats)
        except (OSError, ValueError) as error:  # data that is not there
            console.print(f"{task.name}: {key}: left out: {_line(error)}", highlight=False, markup=False)
            continue
        store.put(key, group.case, case.config, rows, began)
        console.print(
            f"{task.name}: {key}: {len(rows)} rows in {time.perf_counter() - start:.0f} s",
            highlight=False,
            markup=False,
        )


def measure_group(
    task: Task, group: Group, case: Case, size: str, estimators: Iterable[Estimator], repeats: int
) -> list[dict[str, Any]]:
    """All estimators on one case.

    Args:
        task: what is asked.
        group: on what.
        case: the same, made.
        size: one of ``tasks.base.SIZES``.
        estimators: which.
        repeats: rounds of timing, in each of which every program runs once; 0 for no times.

    Returns:
        One row for each estimator and tolerance or budget, and one of the unit of time first: "status" is "ok",
        "missing", "not applicable" or "failed".
    """
    rows: dict[tuple[str, float], dict[str, Any]] = {_UNIT: _unit_row(case)}
    programs: dict[tuple[str, float], Program] = {_UNIT: _unit(case)} if repeats else {}
    slow: dict[tuple[str, float], list[float]] = {}
    for estimator in estimators:
        for control in _controls(task, group, size, estimator):
            row: dict[str, Any] = {"estimator": estimator.name, "version": estimator.version, "control": control}
            row |= {"kind_of_control": estimator.control, "settings": estimator.settings}
            rows[estimator.name, control] = row
            if estimator.version is None:
                row["status"] = "missing"
                continue
            request = dataclasses.replace(_request(case, group, estimator, control), counter=_COUNTER)
            try:
                row |= _score(task, group, estimator, request) | {"status": "ok"}
                timed = _timed(estimator, request.uncounted(), repeats) if repeats else None
            except NotApplicableError as error:
                row |= {"status": "not applicable", "note": _line(error)}
                continue
            except Exception as error:  # whatever a peer raises is a result
                row |= _failure(error)
                continue
            if timed is None:
                continue
            program, row["first_seconds"], second, row["peak_bytes"] = timed
            if second > SLOW:
                slow[estimator.name, control] = [second]
            else:
                programs[estimator.name, control] = _guarded(program, row)
    if repeats:
        jax.block_until_ready(programs[_UNIT].run())
        rows[_UNIT]["peak_bytes"] = _peaks(programs[_UNIT].run, repeats)
    seconds = time_interleaved(programs, repeats) if repeats else {}
    unit = seconds.get(_UNIT)
    for key, samples in (seconds | slow).items():
        if rows[key]["status"] == "failed":
            continue
        rows[key]["seconds"] = dataclasses.asdict(spread(samples))
        if case.network is not None and unit:
            against = unit if key in seconds else [spread(unit).median]
            rows[key]["time_in_gradients"] = dataclasses.asdict(ratio_spread(samples, against))
    return [{"problem": case.name, "setting": group.setting, **row} for row in rows.values()]


def _controls(task: Task, group: Group, size: str, estimator: Estimator) -> tuple[float, ...]:
    if estimator.control == "none":
        return (0,)
    if estimator.control == "tolerance":
        return task.tolerances.get(size, (1e-3,))
    return group.budgets or task.budgets.get(size, (100,))


def _request(case: Case, group: Group, estimator: Estimator, control: float) -> Request:
    given = {"tolerance": control} if estimator.control == "tolerance" else {"budget": int(control)}
    return Request(case, **given, **group.options)


def _score(task: Task, group: Group, estimator: Estimator, request: Request) -> dict[str, Any]:
    """Products and scores over the seeds, from a run whose products are counted, those of the set-up with each."""
    products, scores = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = _COUNTER.read()
        run = estimator.setup(request)
        setup_products = _COUNTER.read() - before
        begun = math.inf
        for seed in _seeds(request.case, task.num_seeds):
            before = _COUNTER.read()
            answer = run(seed)
            products.append(setup_products + _COUNTER.read() - before)
            if estimator.counts and not products[-1]:
                text = f"no product was counted for seed {seed}: multiply by what the request counts"
                raise ArithmeticError(f"{text}, or register it with counts=False where nothing is to be counted")
            if task.score is not None:
                scores.append(task.score(answer, request.case, group))
                if not all(math.isfinite(value) for value in scores[-1].values()):
                    raise ArithmeticError(f"the answer for seed {seed} is not finite")
            if time.perf_counter() - begun > SLOW:
                break
            begun = min(begun, time.perf_counter())  # the first run compiles
    found: dict[str, Any] = {"products": spread(products).median if estimator.counts else None}
    for name in scores[0] if scores else ():
        samples = [score[name] for score in scores]
        found[name] = dataclasses.asdict(spread(samples)) | {"samples": samples}
    return found


def _seeds(case: Case, number: int) -> list[int]:
    """Seeds of a case, others than those of the next, so that what one estimator finds is luck in one case alone."""
    first = 1000 * (zlib.crc32(case.name.encode()) % 1000)
    return list(range(first, first + number))


def _timed(estimator: Estimator, request: Request, repeats: int) -> tuple[Program, float, float, dict[str, Any] | None]:
    """The run without a counter, seconds of its first call with all set-up, and of its second; bytes that both take."""
    seed = _seeds(request.case, 1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with anew():
            before = resident_bytes()
            start = time.perf_counter()
            run = estimator.setup(request)
            setup_seconds = time.perf_counter() - start
            held = resident_bytes() - before
        start = time.perf_counter()
        jax.block_until_ready(run(seed))
        first = setup_seconds + time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(run(seed))
        second = time.perf_counter() - start
        peak = _peaks(lambda: run(seed), 1 if second > SLOW else repeats, max(held, 0))
        return Program(lambda: run(seed), None, first), first, second, peak


def _guarded(program: Program, row: dict[str, Any]) -> Program:
    """A program that says in its row where it fails in a round, and does nothing from then on: others go on."""

    def run() -> Any:
        if row["status"] != "failed":
            try:
                return jax.block_until_ready(program.run())
            except Exception as error:  # a result, as where it is scored
                row.update(_failure(error))
        return None

    return dataclasses.replace(program, run=run)


def _failure(error: Exception) -> dict[str, str]:
    return {"status": "failed", "note": f"{type(error).__name__}: {_line(error)}"}


def _peaks(run: Callable[[], Any], repeats: int, held: int = 0) -> dict[str, Any] | None:
    """Bytes held and taken beyond that: how many depends on the turns of threads."""
    found = [peak_bytes(run) for _ in range(repeats)]
    known = [held + more for more in found if more is not None]
    return dataclasses.asdict(spread(known)) if known else None


def _unit(case: Case) -> Program:
    """A gradient of the network, or one product where there is none."""
    if case.network is None:
        vector = jax.numpy.ones(case.dimension)
        return compile_program(lambda op, v: op.linearize()(v), case.op, vector)
    network = case.network
    return compile_program(jax.grad(network.objective), network.params, network.batch)


def _unit_row(case: Case) -> dict[str, Any]:
    return {"estimator": FIXED[case.network is not None], "version": None, "control": 0, "status": "unit"}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

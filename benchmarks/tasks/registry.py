"""The tasks by name."""

from benchmarks.tasks.base import Task
from benchmarks.tasks.density import DENSITY
from benchmarks.tasks.extremes import EXTREMES
from benchmarks.tasks.growth import GROWTH
from benchmarks.tasks.products import GRADIENT_ENERGY, PEER_PRODUCTS
from benchmarks.tasks.traces import DIAGONAL, TRACE
from benchmarks.tasks.tracked import TRACKED

TASKS: dict[str, Task] = {
    task.name: task for task in (PEER_PRODUCTS, EXTREMES, TRACKED, DENSITY, TRACE, DIAGONAL, GRADIENT_ENERGY, GROWTH)
}
"""Tasks, in the order in which all of them run."""

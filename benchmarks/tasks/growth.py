"""How the cost of eigenvalues grows: with parameters, batch, eigenvalues and steps."""

from benchmarks.cases import Case
from benchmarks.networks import Spec, as_case, trajectory
from benchmarks.tasks.base import Group, Task

ESTIMATORS = ("cljax, budget", "cljax Lanczos, jitted", "matfree Lanczos", "eigenthings Lanczos", "skerch HMT")
WIDTHS = {"tiny": (4, 8), "small": (64, 256, 1024), "full": (256, 1024, 4096)}
BATCHES = {"tiny": (4, 8), "small": (64, 256, 1024), "full": (256, 1024, 4096)}
NUMBERS = {"tiny": (1, 2), "small": (1, 5, 10), "full": (1, 5, 10)}
STEPS = {"tiny": (8, 12), "small": (10, 30, 90), "full": (10, 30, 90)}


def _case(width: int, num_examples: int) -> Case:
    side = 4 if width <= 8 else 28
    spec = Spec("mlp", (("hidden", (width, width)),), "random", num_examples, input_shape=(side, side, 1))
    return as_case(trajectory(spec, (0,))[0], f"mlp {width}, batch {num_examples}", "init")


def _groups(size: str) -> list[Group]:
    width, batch = WIDTHS[size][1], BATCHES[size][1]
    steps = STEPS[size][1]

    def group(setting: str, width: int, batch: int, number: int, steps: int) -> Group:
        name = f"mlp {width}, batch {batch}"
        return Group(name, lambda: _case(width, batch), setting, {"num_top": number}, (steps,))

    found = [group(f"width {w}", w, batch, 1, steps) for w in WIDTHS[size]]
    found += [group(f"batch {b}", width, b, 1, steps) for b in BATCHES[size]]
    found += [group(f"k {k}", width, batch, k, steps) for k in NUMBERS[size]]
    return found + [group(f"steps {m}", width, batch, 1, m) for m in STEPS[size]]


GROWTH = Task(
    "growth",
    "how the time of top eigenvalues grows with parameters, batch, their number and steps; nothing is scored",
    _groups,
    None,
    only=ESTIMATORS,
    of="extremes",
)

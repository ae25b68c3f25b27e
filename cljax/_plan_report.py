"""What ``cljax plan`` prints: a table of the ways to keep the vectors, and how its numbers come about."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cljax._report import PLAIN
from cljax.spectral.rates import Rates, measure_rates
from cljax.training.plan import PlanConfig, PlannedRun, plan_rates, plan_run

UNITS = ("", "k", "M", "G", "T", "P", "E")


def report_plan(config: PlanConfig, console: Console) -> None:
    """Print a plan.

    Args:
        config: what is planned.
        console: to print to.
    """
    ways = plan_run(config)
    cost = ways[0].cost
    measured = None
    if config.flops_rate is None or config.memory_rate is None:
        with console.status("measuring the devices here"):
            measured = measure_rates()
    rates = plan_rates(config, measured)
    console.print(plan_table(config, ways, rates))
    stored = "stored between products" if config.microbatch_size is None else "computed anew in each product"
    link = "not known" if rates.link is None else f"{words(rates.link)}B/s"
    source = "given" if measured is None else "measured here where not given"
    console.print(
        f"{cost.num_params:,} parameters on {cost.num_devices} devices, {config.num_products} products; each device: "
        f"parameters {words(cost.parameters)}B, batch {words(cost.batch)}B, activations {words(cost.activations)}B "
        f"({stored}), four vectors {words(cost.vectors)}B; a product takes {words(cost.product_flops)}FLOP and sends "
        f"{words(cost.product_sent)}B\n"
        f"rates of one device, {source}: {words(rates.flops)}FLOP/s, memory {words(rates.memory)}B/s, link {link}; "
        "nothing overlaps",
        **PLAIN,
    )


def plan_table(config: PlanConfig, ways: list[PlannedRun], rates: Rates) -> Table:
    """A table with a row for each way.

    Args:
        config: what is planned.
        ways: from ``plan_run``.
        rates: of one device.

    Returns:
        The table.
    """
    name = config.model if config.size is None else f"{config.model} {config.size}"
    title = f"{name} on {config.mesh}, {' '.join(config.shard) or 'whole parameters'}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.pad_edge = False, False
    for heading in ("basis", "its bytes", "all bytes", "fits", "compute", "links", "basis reads", "total"):
        table.add_column(heading, justify="right", no_wrap=True)
    for way in ways:
        seconds = way.cost.seconds(rates)
        fits = {None: "?", True: "yes", False: "no"}[way.fits]
        sizes = (f"{words(way.cost.basis)}B", f"{words(way.cost.device_bytes)}B")
        table.add_row(way.mode, *sizes, fits, *map(duration, seconds.values()))
    return table


def words(value: float) -> str:
    """A number with three digits and the prefix of its unit.

    Args:
        value: at least 0.

    Returns:
        For example "1.25 G".
    """
    for unit in UNITS:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{1000 * value:.4g} {UNITS[-1]}"


def duration(value: float) -> str:
    """Seconds with three digits.

    Args:
        value: seconds, or NaN where they are not known.

    Returns:
        For example "1,580 s".
    """
    return "?" if value != value else f"{value:,.0f} s" if value >= 999.5 else f"{value:.3g} s"

"""The program (jaxpr) of a function as a flat list of steps, with what each parameter leaf is used for."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

Slot = int | Literal
"""A value of the program by number, or a constant written into it."""

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "remat2": "jaxpr", "remat": "jaxpr", "checkpoint": "jaxpr"}
_CALLS |= {"closed_call": "call_jaxpr", "core_call": "call_jaxpr", "call": "call_jaxpr"}
"""Calls that mean nothing but their body, and the parameter that holds it."""

_SHAPE_ONLY = {"transpose", "squeeze", "expand_dims", "rev", "copy", "copy_p", "sharding_constraint", "reshape"}
_SHAPE_ONLY |= {"broadcast_in_dim", "convert_element_type"}


@dataclasses.dataclass(frozen=True)
class View:
    """A parameter leaf, seen through operations that only rearrange or convert its entries.

    Attributes:
        leaf: index of the leaf.
        layout: these operations; equal layouts of a leaf arrange its entries alike.
    """

    leaf: int
    layout: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        eqn: the equation of the jaxpr.
        inputs: its operands.
        outputs: numbers of its results.
    """

    eqn: Any
    inputs: tuple[Slot, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the operation."""
        return self.eqn.primitive.name

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """The results, for operands."""
        with self.eqn.ctx.manager:
            found = self.eqn.primitive.bind(*operands, **self.eqn.primitive.get_bind_params(self.eqn.params))
        return list(found) if self.eqn.primitive.multiple_results else [found]


@dataclasses.dataclass(frozen=True)
class Use:
    """A place where a view of a leaf enters an operation that does more than rearrange it.

    Attributes:
        view: the view.
        step: index of the operation, or None where the view is a result of the program.
        operand: which operand it is.
    """

    view: View
    step: int | None
    operand: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of parameter leaves and other arrays.

    Attributes:
        steps: operations in their order; those without effect on the results are left out.
        leaves: numbers of the parameter leaves.
        inputs: numbers of the other arguments.
        consts: arrays that the function brings along, by number.
        outputs: the results.
        structs: shapes and dtypes of the results.
        uses: for each parameter leaf, what it is used for.
    """

    steps: tuple[Step, ...]
    leaves: tuple[int, ...]
    inputs: tuple[int, ...]
    consts: dict[int, Any]
    outputs: tuple[Slot, ...]
    structs: tuple[jax.ShapeDtypeStruct, ...]
    uses: tuple[tuple[Use, ...], ...]

    def run(
        self,
        leaves: Sequence[Any],
        inputs: Sequence[Any],
        change_fn: Callable[[int, list[Any], list[Any]], list[Any]] = lambda step, operands, results: results,
    ) -> list[Any]:
        """Run the program.

        Args:
            leaves: the parameter leaves.
            inputs: the other arguments, flat.
            change_fn: what to put in place of the results of a step, given its index, operands and results.

        Returns:
            The results.
        """
        values = dict(self.consts)
        values.update(zip(self.leaves, leaves, strict=True))
        values.update(zip(self.inputs, inputs, strict=True))

        def value(slot: Slot) -> Any:
            return slot.val if isinstance(slot, Literal) else values[slot]

        for index, step in enumerate(self.steps):
            operands = [value(slot) for slot in step.inputs]
            values.update(zip(step.outputs, change_fn(index, operands, step.run(operands)), strict=True))
        return [value(slot) for slot in self.outputs]

    @property
    def num_values(self) -> int:
        """Entries of all results of all steps."""
        return sum(math.prod(var.aval.shape) for step in self.steps for var in step.eqn.outvars if var.aval.shape)


def read_program(fn: Callable[..., Any], params: Any, *args: Any) -> Program:
    """Trace a function and read its program; calls that a parameter leaf enters are inlined.

    Args:
        fn: ``fn(params, *args)``.
        params: pytree of arrays, or of their shapes.
        *args: pytrees of arrays, or of their shapes.

    Returns:
        The program.
    """
    reader = _Reader()
    jaxpr = jax.make_jaxpr(fn)(params, *args)
    num = len(jax.tree.leaves(params))
    arguments = [reader.new() for _ in jaxpr.jaxpr.invars]
    leaves, inputs = tuple(arguments[:num]), tuple(arguments[num:])
    reader.views = {slot: View(index) for index, slot in enumerate(leaves)}
    outputs = tuple(reader.inline(jaxpr, arguments))
    steps = _live(reader.steps, outputs)
    uses = _uses(steps, outputs, reader.views, num)
    structs = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in jaxpr.out_avals)
    return Program(steps, leaves, inputs, reader.consts, outputs, structs, uses)


def any_equation(part: Any, test_fn: Callable[[Any], bool]) -> bool:
    """Whether a program, or one inside of it, has an equation of some kind.

    Args:
        part: a jaxpr, or what an equation has for parameters.
        test_fn: whether an equation is of that kind.

    Returns:
        True where one is.
    """
    if isinstance(part, (list, tuple)):
        return any(any_equation(item, test_fn) for item in part)
    inner = getattr(part, "jaxpr", part)
    return any(test_fn(eqn) or any_equation(list(eqn.params.values()), test_fn) for eqn in getattr(inner, "eqns", ()))


class _Reader:
    """Gathers steps, constants and views."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.consts: dict[int, Any] = {}
        self.views: dict[int, View] = {}
        self.count = 0

    def new(self) -> int:
        self.count += 1
        return self.count - 1

    def inline(self, jaxpr: Any, arguments: Sequence[Slot]) -> list[Slot]:
        slots: dict[Any, Slot] = {}
        if isinstance(jaxpr, ClosedJaxpr):
            for var, const in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True):
                slots[var] = slot = self.new()
                self.consts[slot] = const
            jaxpr = jaxpr.jaxpr
        slots.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Slot:
            return atom if isinstance(atom, Literal) else slots[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            seen = [self.views[x] for x in operands if not isinstance(x, Literal) and x in self.views]
            outputs: list[Slot]
            if seen and eqn.primitive.name in _CALLS:
                outputs = self.inline(eqn.params[_CALLS[eqn.primitive.name]], operands)
            else:
                made = tuple(self.new() for _ in eqn.outvars)
                self.steps.append(Step(eqn, tuple(operands), made))
                if seen and _is_shape_only(eqn):
                    self.views[made[0]] = View(seen[0].leaf, (*seen[0].layout, *_layout(eqn)))
                outputs = list(made)
            slots.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def _is_shape_only(eqn: Any) -> bool:
    if eqn.primitive.name not in _SHAPE_ONLY or len(eqn.invars) != 1:
        return False
    before, after = eqn.invars[0].aval, eqn.outvars[0].aval
    if eqn.primitive.name == "reshape" and eqn.params["dimensions"] is not None:
        return False
    return math.prod(before.shape) == math.prod(after.shape) and jnp.issubdtype(after.dtype, jnp.floating)


def _layout(eqn: Any) -> tuple[str, ...]:
    """What an operation does to the arrangement of entries; conversions and copies do nothing."""
    name = eqn.primitive.name
    if name in {"convert_element_type", "copy", "copy_p", "sharding_constraint"}:
        return ()
    axes = [eqn.params.get(key) for key in ("permutation", "dimensions", "broadcast_dimensions")]
    return (f"{name} {axes} {eqn.outvars[0].aval.shape}",)


def _live(steps: Sequence[Step], outputs: Sequence[Slot]) -> tuple[Step, ...]:
    """The steps that results depend on, and those with side effects."""
    needed = {slot for slot in outputs if not isinstance(slot, Literal)}
    kept = []
    for step in reversed(steps):
        if step.eqn.effects or any(slot in needed for slot in step.outputs):
            kept.append(step)
            needed.update(slot for slot in step.inputs if not isinstance(slot, Literal))
    return tuple(reversed(kept))


def _uses(
    steps: Sequence[Step], outputs: Sequence[Slot], views: dict[int, View], num_leaves: int
) -> tuple[tuple[Use, ...], ...]:
    found: list[list[Use]] = [[] for _ in range(num_leaves)]
    for index, step in enumerate(steps):
        if step.outputs and step.outputs[0] in views:
            continue
        for operand, slot in enumerate(step.inputs):
            if not isinstance(slot, Literal) and slot in views:
                found[views[slot].leaf].append(Use(views[slot], index, operand))
    for operand, slot in enumerate(outputs):
        if not isinstance(slot, Literal) and slot in views:
            found[views[slot].leaf].append(Use(views[slot], None, operand))
    return tuple(map(tuple, found))

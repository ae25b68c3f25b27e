"""What a compiled program sends between devices, read from its text."""

import math
import re
from typing import Any

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8, "s32": 4, "u32": 4, "pred": 1}
_CALL = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_SHAPE = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")


def collectives(program: Any, main_path: bool = False) -> list[tuple[str, int]]:
    """Collectives of a compiled program, each once, however often a loop around it runs.

    Args:
        program: compiled.
        main_path: leave out what lies in loops and branches.

    Returns:
        Pairs (kind, bytes of the results on one device).
    """
    found, entry = [], False
    for line in program.as_text().splitlines():
        entry = line.startswith("ENTRY") if line.endswith("{") else entry
        call = _CALL.search(line)
        if call and (entry or not main_path):
            shapes = _SHAPE.findall(call[1])
            size = sum(_BYTES[kind] * math.prod(map(int, filter(None, dims.split(",")))) for kind, dims in shapes)
            found.append((call[2], size))
    return found

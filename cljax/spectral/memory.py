"""How the vectors of a Krylov run are kept."""

import dataclasses

from cljax._checks import check_positive_int


@dataclasses.dataclass(frozen=True)
class Memory:
    """How ``extreme_eigenpairs`` keeps its basis; ``spectral.plan`` says what each way takes for an operator.

    With none of the options, a vector is kept for each product, in float32 at least.

    Attributes:
        basis_size: most vectors kept at a time, or None for as many as there are products. Fewer need more products:
            the run restarts from the best Ritz vectors whenever the basis is full.
        half: keep the vectors in bfloat16: half of the memory. Coefficients, products and what is returned stay in
            float32 at least. Residuals do not fall below about 0.004 ‖A‖, the rounding of the vectors, which they
            include; a cold run ends there, and what its start hides is of that order too;
            values are more accurate, the more so the larger the operator, and returned vectors orthonormal up
            to rounding of bfloat16. Not with ``basis_size``: each restart would round the kept vectors anew.
        offload: keep the vectors in the host's memory, in float32 or wider, and orthogonalize there: the device holds a
            few vectors, and two of them are moved in each step. Host loop only.
    """

    basis_size: int | None = None
    half: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: if ``basis_size`` is below 1, or ``half`` is not alone.
            TypeError: if ``basis_size`` is no integer.
        """
        if self.basis_size is not None:
            check_positive_int("basis_size", self.basis_size)
        if self.half and (self.offload or self.basis_size is not None):
            raise ValueError(f"memory: expected half without other options, got {self}; leave half out")


ALL = Memory()
"""Keep every vector, on the device, as it is worked with."""

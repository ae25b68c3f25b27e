"""Batches as a function of seed and step alone, so that a resumed run sees the data that it would have seen."""

import numpy as np

from cljax._batch import Batch, pad_batch


class Batches:
    """Batches of a data set, in a new random order each epoch.

    Args:
        inputs: (n, ...).
        targets: (n, ...).
        batch_size: examples in a batch; above n counts as n.
        seed: of the order.
        multiple_of: pad every batch with examples of weight 0 to a multiple of this, the number of devices.
        weight: None for all ones, or a leading part of the losses' shape: (n,) or (n, T).
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        batch_size: int,
        seed: int,
        multiple_of: int = 1,
        weight: np.ndarray | None = None,
    ) -> None:
        self._inputs, self._targets, self._weight = inputs, targets, weight
        self._size = min(batch_size, len(targets))
        self._padded = -(-self._size // multiple_of) * multiple_of
        self._seed = seed
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, an uneven last one included."""
        return -(-len(self._targets) // self._size)

    def __call__(self, step: int) -> Batch:
        """The batch of one step.

        Args:
            step: from 0 on.

        Returns:
            A batch of NumPy arrays, always of the same shapes: what is missing is padded with weight 0.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._targets)))
        chosen = self._order[1][index * self._size : (index + 1) * self._size]
        weight = None if self._weight is None else self._weight[chosen]
        return padded_batch(self._inputs[chosen], self._targets[chosen], self._padded, weight)


def padded_batch(inputs: np.ndarray, targets: np.ndarray, size: int, weight: np.ndarray | None = None) -> Batch:
    """A batch of ``size`` examples, the missing ones repeated from the first with weight 0.

    Args:
        inputs: (n, ...), n of at least 1 and at most ``size``.
        targets: (n, ...).
        size: examples in the batch.
        weight: None for all ones, or (n, ...).

    Returns:
        A batch with explicit float32 weights.
    """
    return pad_batch(Batch(inputs, targets, weight), size)

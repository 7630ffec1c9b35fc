"""A sequence of any length as overlapping pieces, while its steps come block by block.

Shapes: n steps of a block, m steps of a piece.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Look = Callable[[int, tuple[Tensor, ...]], None]


class Pieces:
    """Gathers steps and hands on a piece as soon as one step beyond it is known.

    What two pieces share is kept, everything before is forgotten, so memory does not grow with the
    sequence. The pieces do not depend on how the steps are cut into blocks.

    Args:
        chunk: Steps of a piece; the last one may be shorter.
        hop: Steps from the start of a piece to that of the next.
        look: Is handed the first step of each piece and views (..., m) of its inputs, which are
            only valid during the call.
    """

    def __init__(self, *, chunk: int, hop: int, look: Look) -> None:
        self._chunk, self._hop, self._look = chunk, hop, look
        self._space: tuple[Tensor, ...] = ()
        self._start = 0  # step of the sequence at which the space begins
        self._held = 0  # steps in the space

    def add(self, *inputs: Tensor) -> None:
        """Take the next consecutive steps: tensors (..., n) of one n, the same kinds each time."""
        if not self._space:
            self._space = tuple(x.new_empty((*x.shape[:-1], self._chunk)) for x in inputs)
        taken, steps = 0, inputs[0].shape[-1]
        while taken < steps:
            if self._held == self._chunk:
                self._hand_on()
                self._forget()
            count = min(steps - taken, self._chunk - self._held)
            for space, x in zip(self._space, inputs, strict=True):
                space[..., self._held : self._held + count] = x[..., taken : taken + count]
            self._held += count
            taken += count

    def finish(self) -> None:
        """Hand on the last piece.

        Raises:
            ValueError: There was no step.
        """
        if self._held == 0:
            raise ValueError("a sequence of 0 steps holds no events")
        self._hand_on()
        self._space = ()

    def _hand_on(self) -> None:
        self._look(self._start, tuple(x[..., : self._held] for x in self._space))

    def _forget(self) -> None:
        """Move what the next piece shares to the front."""
        kept = self._held - self._hop
        for space in self._space:
            space[..., :kept] = space[..., self._hop : self._held].clone()
        self._start, self._held = self._start + self._hop, kept

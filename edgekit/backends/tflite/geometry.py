"""Where the windows of convolutions and pools lie, and how LiteRT says the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Windows", "windows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Window placement over (height, width).

    `padding` is LiteRT's: SAME or VALID. `pads` (before, after for each dimension) is what must be added by a
    PAD before a VALID operator; all zero otherwise.
    """

    padding: str
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @property
    def needs_pad(self) -> bool:
        """Whether a PAD comes first."""
        return any(amount for pair in self.pads for amount in pair)


def windows(
    size: Sequence[int],
    out: Sequence[int],
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    begin: Sequence[int],
) -> Windows:
    """How LiteRT places windows that start `begin` pixels before the input and give `out` positions.

    SAME pads ceil(in / stride) outputs and puts the odd pixel last (TensorFlow's rule); everything else is an
    explicit PAD and VALID. Padding behind the last window is left out: no window reads it.
    """
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    need = [(o - 1) * s + e for o, s, e in zip(out, strides, extent, strict=True)]
    total = [max(n - i, 0) for n, i in zip(need, size, strict=True)]
    valid = all(b == 0 and t == 0 for b, t in zip(begin, total, strict=True))
    if valid and all((i - e) // s + 1 == o for i, e, s, o in zip(size, extent, strides, out, strict=True)):
        return Windows(padding="VALID")
    same = all(
        o == -(-i // s) and b == t // 2
        for i, o, s, b, t in zip(size, out, strides, begin, total, strict=True)
    )
    if same:
        return Windows(padding="SAME")
    after = [max(n - i - b, 0) for n, i, b in zip(need, size, begin, strict=True)]
    return Windows(padding="VALID", pads=((begin[0], after[0]), (begin[1], after[1])))

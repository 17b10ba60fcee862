"""An arithmetic coder: symbols with integer frequencies <-> bytes. Knows integers alone; not where frequencies come from.

Whole numbers throughout, so what one machine writes every machine reads. The interval is held as a 64-bit beginning and a
range (Martin 1979, "Range encoding"), a carry runs back into the bytes already written.
"""

from __future__ import annotations

WIDE = 64  # bits of the interval
FULL = 1 << WIDE
LOW = FULL >> 8  # below this range a byte is settled
MOST = 1 << 40  # the largest total of frequencies: the interval still has 16 bits more


class Encoder:
    """Symbols in, bytes out: each costs log2(total / frequency) bits, and the whole at most 8 bits more."""

    def __init__(self) -> None:
        self._out, self._low, self._range = bytearray(), 0, FULL

    def put(self, first: int, frequency: int, total: int) -> None:
        """A symbol that owns `first .. first + frequency - 1` of the numbers below `total`.

        Raises:
            ValueError: it owns nothing, or the total is too large.
        """
        if not (0 < frequency <= total - first and first >= 0 and total <= MOST):
            raise ValueError(f"a symbol from {first}, {frequency} wide, is not one of a total of {total} (at most {MOST})")
        part = self._range // total
        self._low += part * first
        self._range = part * frequency
        if self._low >= FULL:
            self._low -= FULL
            self._carry()
        while self._range < LOW:
            self._out.append(self._low >> WIDE - 8)
            self._low = self._low << 8 & FULL - 1
            self._range <<= 8

    def _carry(self) -> None:
        place = len(self._out) - 1
        while self._out[place] == 255:
            self._out[place] = 0
            place -= 1
        self._out[place] += 1

    def finish(self) -> bytes:
        """The bytes: as few as say a number within the interval; what is missing at the end reads as zeros."""
        for count in range(9):
            unit = 1 << WIDE - 8 * count
            number = -(-self._low // unit) * unit
            if number < self._low + self._range:
                break
        if number >= FULL:
            number -= FULL
            self._carry()
        return bytes(self._out + number.to_bytes(8, "big")[:count])


class Decoder:
    """The way back: for each symbol `look` where it lies, then `take` it."""

    def __init__(self, data: bytes):
        self._data, self._at, self._range, self._part = data, 8, FULL, 0
        self._number = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def look(self, total: int) -> int:
        """A number below `total`: the next symbol is the one that owns it."""
        self._part = self._range // total
        return min(self._number // self._part, total - 1)

    def take(self, first: int, frequency: int) -> None:
        """Go on behind the symbol that owns `first .. first + frequency - 1`, of the total last given to `look`."""
        self._number -= self._part * first
        self._range = self._part * frequency
        while self._range < LOW:
            byte = self._data[self._at] if self._at < len(self._data) else 0
            self._number = (self._number << 8 | byte) & FULL - 1
            self._at += 1
            self._range <<= 8

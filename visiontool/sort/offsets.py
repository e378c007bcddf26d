"""Finds lines of a file by what they are about, among any number of them, at 10 to 12 bytes each."""

from array import array


class Offsets:
    """A hash table of offsets in a file. Who asks looks at the lines themselves, so no two keys are ever taken for one.

    A slot is 24 bits of the hash and 40 bits of the offset, so a file may be 1 TiB. Offset 0 is an empty slot.
    """

    _OFFSET_BITS, _HASH_BITS = 40, 24

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._used = 0

    def add(self, hash_: int, offset: int) -> None:
        if self._used >= 0.8 * len(self._slots):
            old, self._slots = self._slots, array("Q", bytes(8 * (len(self._slots) * 5 // 4)))
            for value in filter(None, old):
                self._put(value)
        self._put((hash_ % 2**self._HASH_BITS) << self._OFFSET_BITS | offset)
        self._used += 1

    def candidates(self, hash_: int) -> list[int]:
        """The offsets of all entries of this hash, and perhaps some of others; the newest first."""
        short = hash_ % 2**self._HASH_BITS
        found, slot = [], self._home(short)
        while value := self._slots[slot]:
            if value >> self._OFFSET_BITS == short:
                found.append(value % 2**self._OFFSET_BITS)
            slot = (slot + 1) % len(self._slots)
        return sorted(found, reverse=True)

    def _put(self, value: int) -> None:
        slot = self._home(value >> self._OFFSET_BITS)
        while self._slots[slot]:
            slot = (slot + 1) % len(self._slots)
        self._slots[slot] = value

    def _home(self, short: int) -> int:
        return short * len(self._slots) >> self._HASH_BITS

"""A set of keys that costs 8 bytes each, for knowing which of millions of inputs were there before."""

import os
from array import array
from bisect import bisect_left
from hashlib import blake2b

# New digests wait in a Python set, at about 100 bytes each, until they are merged into the sorted ones: all of a
# merge's work is linear in those, so how many may wait grows with them, and an added key costs the same at any size.
_WAITING = 1024
_SORTED_FOR_ONE_WAITING = 256
_CHUNK = 65536
# Names come from strangers too: who cannot know this cannot make two of them that look like one.
_SALT = os.urandom(blake2b.SALT_SIZE)


class Seen:
    """Which keys were added, kept as 64-bit digests: nothing is forgotten and there is no way to get a key back.

    Two different keys are taken for one if they share a digest. The odds that this happens at all are n * n / 2**65:
    one in 37 million among a million keys, one in 3700 among a hundred million.

    A key costs 8 bytes, and about half a byte for those not merged yet. A merge is done in place and takes a few MB
    for a moment; where the system can grow memory only by copying it, which Linux need not, twice what is kept.
    """

    def __init__(self) -> None:
        self._sorted = array("Q")
        self._waiting: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._waiting)

    def __contains__(self, key: bytes) -> bool:
        return self._has(_digest(key))

    def add(self, key: bytes) -> bool:
        """Whether `key` was new."""
        digest = _digest(key)
        if self._has(digest):
            return False
        self._waiting.add(digest)
        if len(self._waiting) >= max(_WAITING, len(self._sorted) // _SORTED_FOR_ONE_WAITING):
            self._merge()
        return True

    def _has(self, digest: int) -> bool:
        if digest in self._waiting:
            return True
        index = bisect_left(self._sorted, digest)
        return index < len(self._sorted) and self._sorted[index] == digest

    def _merge(self) -> None:
        """Moves what is waiting to its places among the sorted, from the end on, a chunk at a time."""
        import numpy as np  # here: a run with few inputs does not need it

        new = np.fromiter(self._waiting, np.uint64, len(self._waiting))
        new.sort()
        self._waiting.clear()
        end = len(self._sorted)
        self._sorted.frombytes(new.tobytes())  # room at the end; what it holds is overwritten
        places = np.frombuffer(self._sorted, np.uint64)
        while len(new):
            start = max(0, end - _CHUNK)
            # All of the new that belong behind the first of this chunk; before the first chunk of all nothing is left.
            left = int(np.searchsorted(new, places[start])) if start else 0
            merged = np.concatenate((places[start:end], new[left:]))
            merged.sort(kind="stable")  # finds the two sorted halves and merges them
            places[start + left : start + left + len(merged)] = merged
            new, end = new[:left], start


def _digest(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8, salt=_SALT).digest(), "little")

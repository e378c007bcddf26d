import subprocess
import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiontool import seen
from visiontool.seen import Seen


@given(
    st.lists(st.binary(max_size=2), max_size=200),
    st.integers(1, 7),
    st.integers(1, 50),
    st.sampled_from([1, 2, 3, 5, 8, 1000]),
)
def test_it_agrees_with_a_set(keys, waiting, share, chunk):
    plain: set[bytes] = set()
    with mock.patch.multiple(seen, _WAITING=waiting, _SORTED_FOR_ONE_WAITING=share, _CHUNK=chunk):
        compact = Seen()
        for key in keys:
            assert (key in compact) == (key in plain)
            assert compact.add(key) == (key not in plain)
            plain.add(key)
            assert key in compact
            assert len(compact) == len(plain)
            merged = list(compact._sorted)
            assert merged == sorted(set(merged))
        assert all(key in compact for key in plain)


@pytest.mark.parametrize("count", [1023, 1024, 1025, 200_000])
def test_nothing_is_forgotten_or_made_up_with_its_own_bounds(count):
    compact = Seen()
    assert all(compact.add(b"%d" % number) for number in range(count))
    assert len(compact) == count
    assert not any(compact.add(b"%d" % number) for number in range(0, count, 7))
    assert not any(b"-%d" % number in compact for number in range(0, count, 7))
    assert len(compact) == count


@pytest.mark.slow
def test_a_key_costs_8_bytes_and_a_merge_not_twice_that():
    count = 300_000
    keys = [b"%d" % number for number in range(count)]
    compact = Seen()
    for key in keys[:250_000]:
        compact.add(key)
    tracemalloc.start()  # which is slow; memory that grows from now on is counted whole
    try:
        for key in keys[250_000:]:
            compact.add(key)
        compact._merge()
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(compact) == count
    assert 8 <= held / count < 9
    assert most / count < 14


@pytest.mark.parametrize("add", [1, 1000])
def test_few_keys_need_no_numpy(add):
    code = (
        f"import sys; from visiontool.seen import Seen; s = Seen(); [s.add(b'%d' % i) for i in range({add})];"
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_digests_of_two_processes_differ():
    code = "from visiontool import seen; print(seen._digest(b'a'))"
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True).stdout for _ in range(2))
    assert first.strip().isdigit()
    assert first != second


def test_digests_are_spread_over_64_bits():
    digests = np.array([seen._digest(b"%d" % number) for number in range(4000)], np.uint64)
    bits = (digests[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 0.06)  # 0.06 is 7.6 standard deviations

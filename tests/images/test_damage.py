"""Damaged pictures: whatever is done to the bytes of a real one, it is read or refused in words, and costs little."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oddities import broken_pictures, good_pictures, plain_pictures
from pictures import outcome_of, written

from visiontool.images.decode import Limits, Picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LIMITS = Limits(max_pixels=10_000)
PICTURES = {**good_pictures(), **broken_pictures(), **plain_pictures()}
SMALL = sorted(name for name, data in PICTURES.items() if 0 < len(data) < 20_000)
# The same folder for all examples of a test is meant: each overwrites the file of the one before.
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(folder: Path, data: bytes) -> None:
    """What any bytes give: a picture within the limits, or words that can be shown."""
    for resize_to in (None, 4):
        outcome = outcome_of(written(folder, "damaged", data), resize_to=resize_to, limits=LIMITS)
        if isinstance(outcome, Picture):
            assert outcome.image.mode == "RGB"
            assert 0 < outcome.image.width * outcome.image.height <= LIMITS.max_pixels
            assert len(outcome.image.tobytes()) == 3 * outcome.image.width * outcome.image.height
        else:
            assert outcome.isprintable()
            assert 0 < len(outcome) < 400


@st.composite
def damages(draw: st.DrawFn) -> bytes:
    """The bytes of a small picture with some of them changed, put in, taken out, moved, or cut off."""
    data = bytearray(PICTURES[draw(st.sampled_from(SMALL))])
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["change", "insert", "delete", "number", "repeat", "truncate"])):
            case "change":
                data[place:end] = draw(st.binary(min_size=end - place, max_size=end - place))
            case "insert":
                data[place:place] = draw(st.binary(max_size=8))
            case "delete":
                del data[place:end]
            case "number":
                number = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
                data[place : place + 4] = number.to_bytes(4, draw(st.sampled_from(["big", "little"])))
            case "repeat":
                data[place:place] = data[place:end] * draw(st.integers(1, 200))
            case "truncate":
                del data[place:]
    return bytes(data)


@FUZZ
@given(data=damages())
def test_a_damaged_picture_is_read_or_refused(data: bytes, tmp_path: Path) -> None:
    check(tmp_path, data)


@FUZZ
@given(name=st.sampled_from(SMALL), body=st.binary(max_size=300), length=st.integers(1, 60))
def test_anything_behind_a_real_beginning_is_read_or_refused(
    name: str, body: bytes, length: int, tmp_path: Path
) -> None:
    check(tmp_path, PICTURES[name][:length] + body)


@FUZZ
@given(data=st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes, tmp_path: Path) -> None:
    check(tmp_path, data)


@pytest.mark.parametrize("name", plain_pictures())
def test_no_damage_escapes_as_another_error(tmp_path: Path, name: str) -> None:
    randomly, good = random.Random(name), plain_pictures()[name]
    for _ in range(60):
        bad = bytearray(good[: randomly.randint(1, len(good))])
        for _ in range(randomly.randint(0, 6)):
            bad[randomly.randrange(len(bad))] = randomly.randrange(256)
        check(tmp_path, bytes(bad))


def test_every_beginning_of_every_picture_is_read_or_refused(tmp_path: Path) -> None:
    for data in plain_pictures().values():
        for end in range(1, len(data), max(1, len(data) // 40)):
            check(tmp_path, data[:end])

import io
import os
import subprocess
import sys
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiontool.data.path_lists import check_lists, is_read_once, paths_in, read_list
from visiontool.errors import DataError, UsageError

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs named pipes and names of any bytes")


class Blocks(io.RawIOBase):
    """A stream whose reads give these blocks, one each, and where None stands raise."""

    def __init__(self, *blocks: bytes | None) -> None:
        self._blocks = list(blocks)

    def read(self, size: int = -1) -> bytes:
        block = self._blocks.pop(0) if self._blocks else b""
        if block is None:
            raise OSError(5, "Input/output error")
        assert len(block) <= size
        return block


def paths(*blocks: bytes | None) -> list[str]:
    return list(paths_in(Blocks(*blocks), "names"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\n\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n\r\nc", ["a", "b", "c"]),
        (b"a\rb\n\r\r\nc", ["a", "b", "c"]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\rb\0\r\0", ["a\rb", "\r"]),
        (b" a \n#b\n*.png\n-\n@c\n", [" a ", "#b", "*.png", "-", "@c"]),
        (b"a\0b\0", ["a", "b"]),
        (b"\0\0a\0\0b", ["a", "b"]),
        (b"a\nb\0c\r\n\0", ["a\nb", "c\r\n"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa", ["a"]),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbfa\0\xef\xbb\xbfb\0", ["a", "\ufeffb"]),
        ("ä\n猫.png\n".encode(), ["ä", "猫.png"]),
    ],
)
def test_a_list_has_a_path_a_line_or_nuls(content, expected):
    assert paths(content) == expected
    assert list(paths_in(io.BytesIO(content), "names")) == expected


@POSIX
def test_names_that_are_not_utf8_stay_the_bytes_they_are():
    names = [b"\xff.png", b"\xff\xfe.png", b"caf\xe9/\x80\n.jpg", b"\xfe\xff.png"]
    for first in names:
        given = [first, *names]
        assert [os.fsencode(path) for path in paths(b"\0".join(given))] == given


def test_the_first_separator_to_arrive_decides():
    assert paths(b"a\n", b"b\0c\n", b"d") == ["a", "b\0c", "d"]
    assert paths(b"a", b"b\n", b"\0\n") == ["ab", "\0"]
    assert paths(b"a", b"b\nc\0", b"d\ne") == ["ab\nc", "d\ne"]


NAME = st.binary(min_size=1, max_size=5).map(lambda name: name.translate(None, b"\0\r\n")).filter(bool)


@given(st.lists(NAME, max_size=20), st.sampled_from([b"\0", b"\n", b"\r\n", b"\r"]), st.data())
def test_where_blocks_end_does_not_matter(names, end, data):
    content = b"\xef\xbb\xbffirst" + end + b"".join(name + end for name in names)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(content)), max_size=10)))
    blocks = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert paths(*filter(None, blocks)) == ["first", *map(os.fsdecode, names)]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([b"x" * 60_000] * 3, "no list of paths: 65,536 bytes without an end of a line\nName a text file"),
        ([b"a\n", *[b"x" * 60_000] * 3], "no list of paths: 65,536 bytes"),
        ([b"a\0", *[b"x" * 60_000] * 3], "no list of paths: 65,536 bytes"),
        ([b"\xff\xd8\xff\xe0\0\x10JFIF\0" + b"\0\n" * 100], "no list of paths but a picture\nType"),
        (["\ufeffa.png\r\nb.png\r\n".encode("utf-16-le")], "UTF-16 text, expected UTF-8"),
        (["\ufeffa.png\r\nb.png\r\n".encode("utf-16-be")], "UTF-16 text, expected UTF-8"),
    ],
)
def test_what_is_no_list_is_told(blocks, message):
    with pytest.raises(DataError) as caught:
        paths(*blocks, None)  # where None stands reading fails
    assert message in str(caught.value)


def test_a_list_that_breaks_off_is_told_behind_what_was_whole():
    given = paths_in(Blocks(b"a\nb\nc", None), "names")
    assert [next(given), next(given)] == ["a", "b"]
    with pytest.raises(DataError, match="the list names cannot be read on: Input/output error\n"):
        next(given)


def test_a_list_is_read_in_constant_memory(tmp_path):
    file = tmp_path / "list"
    file.write_text("".join(f"some/folder/IMG_{number:06d}.jpg\n" for number in range(100_000)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_list(str(file))) == 100_000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 600_000 < file.stat().st_size


def test_what_cannot_be_opened_is_told_all_at_once(tmp_path):
    good = tmp_path / "good.txt"
    good.touch()
    check_lists([str(good), str(good)])
    with pytest.raises(DataError) as caught:
        check_lists([str(tmp_path / "none.txt"), str(good), str(tmp_path), "", "a\0b"])
    first, *help_ = str(caught.value).split("\n")
    assert first == (
        f"no list of paths can be read from {tmp_path / 'none.txt'} (No such file or directory), "
        f"{tmp_path} (a folder; type it without @),  (No such file or directory), a\0b (embedded null byte)"
    )
    assert len(help_) == 2
    assert all(word in "".join(help_) for word in ("one path a line", "@FILE", ".txt", "./@NAME"))


def test_stdin_can_be_read_once(monkeypatch):
    with pytest.raises(UsageError, match='"-" is given 3 times, but stdin can be read only once'):
        check_lists(["-", "none", "-", "-"])
    for closed in (None, io.TextIOWrapper(io.BytesIO())):
        monkeypatch.setattr(sys, "stdin", closed)
        if closed is not None:
            check_lists(["-"])
            closed.close()
        with pytest.raises(UsageError, match='"-" reads a list of paths from stdin, which is closed\nPipe'):
            check_lists(["-"])


READER = """
import sys
from visiontool.data.path_lists import read_list
for path in read_list(sys.argv[1]):
    print(path, flush=True)
"""


@pytest.mark.parametrize(("file", "separator"), [("-", b"\n"), pytest.param("pipe", b"\0", marks=POSIX)])
def test_a_slow_writer_is_served_at_once(tmp_path, separator, file):
    if file == "pipe":
        os.mkfifo(tmp_path / file)
    ran = subprocess.Popen(
        [sys.executable, "-c", READER, file], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    emergency = threading.Timer(20, ran.kill)
    emergency.start()
    try:
        writer = ran.stdin if file == "-" else open(tmp_path / file, "wb")  # noqa: SIM115
        for name in (b"a.png", b"b.png", b"c.png"):
            writer.write(name + separator)
            writer.flush()
            assert ran.stdout.readline() == name + b"\n"  # else both would wait for each other
        writer.write(b"last")
        writer.close()
        assert ran.stdout.read() == b"last\n"
        assert ran.wait(timeout=20) == 0
    finally:
        emergency.cancel()
        ran.kill()
        ran.stdout.close()
        ran.stdin.close()
        ran.wait()


@POSIX
def test_a_pipe_is_opened_only_when_it_is_read(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    names = [f"{number:06d}" for number in range(20_000)]  # more than a pipe holds

    def write_one_after_the_other() -> None:
        for pipe in (first, second):
            pipe.write_text("\n".join(names))

    writer = threading.Thread(target=write_one_after_the_other, daemon=True)
    writer.start()
    check_lists([str(first), str(second)])
    assert list(read_list(str(first))) == names
    assert list(read_list(str(second))) == names
    writer.join(timeout=20)
    assert not writer.is_alive()


def test_what_can_be_read_again(tmp_path):
    file = tmp_path / "list"
    file.touch()
    assert not is_read_once(str(file))
    assert all(is_read_once(name) for name in ("-", "/dev/stdin", "/dev/fd/0", str(tmp_path / "none"), "a\0b"))
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        assert is_read_once(str(tmp_path / "pipe"))

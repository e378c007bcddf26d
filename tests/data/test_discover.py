"""Files, folders, globs and lists become the pictures that they mean, in order, each once."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visiontool.data.discover import count_images, find_images, hint, is_fed, is_one_file, paths_in
from visiontool.errors import DataError, UsageError

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs names of any bytes")
BASH = pytest.mark.skipif(not (shutil.which("bash") and os.path.exists("/dev/fd")), reason="needs bash and /dev/fd")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_list(name: str, *entries: str, end: bytes = b"\n") -> None:
    Path(name).write_bytes(b"".join(os.fsencode(entry) + end for entry in entries))


def find(*paths: str, **options: object) -> list[str]:
    return list(find_images(paths, **options))


def left_out(*paths: str, **options: object) -> dict[str, list[str]]:
    """What is left out, by kind."""
    passed: dict[str, list[str]] = {}
    find(*paths, on_pass=lambda kind, path: passed.setdefault(kind, []).append(path), **options)
    return passed


# Files, folders and globs


@pytest.mark.parametrize(
    ("names", "typed", "expected"),
    [
        ("b.png a.png p/c.png", "b.png p a.png", "b.png p/c.png a.png"),
        ("notes.md .h.png", "notes.md .h.png gone.png no/such/ ~", "notes.md .h.png gone.png no/such/ ~"),
        ("d/a.JPG d/b.jpeg d/n.txt d/Thumbs.db d/noextension d/e.tar.gz d/f.webp", "d", "d/a.JPG d/b.jpeg d/f.webp"),
        ("d/img10.png d/img2.png d/IMG1.png d/b.png d/A.png d/2.png d/10.png d/010.png", "d",
         "d/2.png d/010.png d/10.png d/A.png d/b.png d/IMG1.png d/img2.png d/img10.png"),
        ("d/z.png d/a10/1.png d/a2/deep/3.png d/a2/2.png", "d", "d/z.png d/a2/2.png d/a2/deep/3.png d/a10/1.png"),
        ("d/a.png d/.b.png d/.cache/c.png d/__MACOSX/a.png d/@eaDir/a.png d/$RECYCLE.BIN/e.png", "d", "d/a.png"),
        (".cache/a.png __MACOSX/b.png", ".cache __MACOSX", ".cache/a.png __MACOSX/b.png"),
        ("a.png d/b.png", ".", "./a.png ./d/b.png"),
        ("d/album.jpg/a.png scans.txt/a.png", "d scans.txt", "d/album.jpg/a.png scans.txt/a.png"),
        ("a1.png a[1].png *.png [x]/b.png x/c.png", "a[1].png *.png [x]", "a[1].png *.png [x]/b.png"),
        ("d/a10.png d/a2.png d/a.txt d/b/c.png d/b/n.txt d/.h.png", "d/*", "d/a.txt d/a2.png d/a10.png d/b/c.png"),
        ("d/a10.png d/a2.png d/.h.png e/a1.png", "?/a[0-9].png d/.h*", "d/a2.png e/a1.png d/.h.png"),
        ("d/b/c.png e/a1.png", "*/b/c.png d/../e/*.png", "d/b/c.png d/../e/a1.png"),
        ("a.txt d/a.png", "*.gif none/*.png a.txt/*.png d/*/x.png none/**", ""),
        ("d/a.png d/- d/@b d/list.txt", "d/*", "d/- d/@b d/a.png d/list.txt"),
        ("a.png d/b2.png d/b10.png d/deep/c.png d/.git/e.png", "**/*.png",
         "a.png d/b2.png d/b10.png d/deep/c.png"),
        ("a.png d/b2.png d/deep/c.png d/deep/n.txt", "**", "./a.png ./d/b2.png ./d/deep/c.png"),
        ("d/[x]/a/c.png d/x/c.png", "d/**/c.png", "d/[x]/a/c.png d/x/c.png"),
    ],
)  # fmt: skip
def test_what_paths_mean(folder, names, typed, expected):
    make(*names.split())
    assert find(*typed.split()) == expected.split()


@LINUX
def test_names_of_any_kind_are_found(folder):
    names = ["d/a\nb.png", "d/c\td.png", "d/e f.png", 'd/g".png', "d/h\\.png", "d/\u202ei.png", "d/\udcff.png"]
    make(*names)
    os.symlink("none.png", "d/z.png")  # broken: whoever opens it says so
    for typed in ("d", "d/*.png", "**/*.png"):
        assert sorted(find(typed)) == sorted([*names, "d/z.png"])


def test_links_to_folders_are_followed_once_each_behind_the_folders_themselves(folder):
    make("elsewhere/a.png", "elsewhere/in/c.png", "d/b.png", "d/e/f.png")
    for target, name in (("../elsewhere", "d/a link"), ("../elsewhere", "d/album.jpg"), (".", "d/loop")):
        os.symlink(target, name)
    os.symlink("..", "d/e/back")
    expected = ["d/b.png", "d/e/f.png", "d/a link/a.png", "d/a link/in/c.png"]
    assert find("d") == expected
    assert sorted(left_out("d")["repeated"]) == ["d/album.jpg", "d/e/back", "d/loop"]
    assert find("elsewhere/in", "d") == ["elsewhere/in/c.png", *expected[:3]]
    assert find("d", recursive=False) == ["d/b.png"]
    assert sorted(left_out("d", recursive=False)["sub-folders"]) == ["d/a link", "d/album.jpg", "d/e", "d/loop"]


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
BMP = b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        *((name, PNG, "") for name in ("IMG_0001", "b.dng", "c.jpg.1", "f.PNG~")),
        *(("a", head, "") for head in (BMP, b"P6\n# GIMP\n8 8", b"P1 8 8", b"II*\0", b"\xff\xd8\xff\xe1", b"GIF89a")),
        *(("a", text, "not pictures") for text in (b"", b"BMW and Audi", b"P1 is next", b"<html>", b"hello")),
        *((name, PNG, "not pictures") for name in ("labels.txt", "a.JSON")),  # not opened
        *((f"a.{raw}", b"II*\0\x10\0\0\0CR", "unsupported") for raw in ("dng", "CR2", "nef")),
        ("a.raf", b"FUJIFILMCCD-RAW ", "unsupported"),
        ("a", b"8BPS", "unsupported"),
        (".hidden", PNG, "hidden"),
    ],
)
def test_what_no_extension_tells_the_first_bytes_do(folder, name, content, kind):
    os.mkdir("d")
    Path("d", name).write_bytes(content)
    assert find("d") == ([] if kind else [f"d/{name}"])
    assert left_out("d") == ({kind: [f"d/{name}"]} if kind else {})


@LINUX
def test_what_is_no_regular_file_is_never_opened(folder):
    os.mkdir("d")
    os.mkfifo("d/pipe")
    for name, target in (("zero", "/dev/zero"), ("gone", "nothing"), ("self", "self")):
        os.symlink(target, f"d/{name}")
    assert left_out("d") == {"not pictures": ["d/gone", "d/pipe", "d/self", "d/zero"]}


def test_each_real_file_is_given_once(folder):
    make("d/a.png", "e/b.png")
    os.symlink("../d/a.png", "e/a-again.png")
    os.symlink("d", "link")
    assert find("d/a.png", "d", "./d/../d/a.png", str(folder / "d/a.png"), "e", "d/*.png") == ["d/a.png", "e/b.png"]
    assert find("link", "d", "link/a.png") == ["link/a.png"]


def test_what_holds_no_picture_is_reported(folder):
    make("d/a.png", "texts/notes.txt")
    write_list("nothing", "", "")
    write_list("list", "texts", "d", "missing.png", "d")
    empty: list[str] = []
    assert find("texts", "d", "*.gif", "@nothing", "@list", "d", on_empty=empty.append) == ["d/a.png", "missing.png"]
    assert empty == ["texts", "*.gif", "@nothing", "texts"]


def test_a_folder_that_cannot_be_read_is_given_itself(folder, monkeypatch):
    make("d/a.png", "d/closed/b.png", "d/open/c.png")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path == "d/closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert find("d") == ["d/a.png", "d/closed", "d/open/c.png"]
    assert find("d/closed") == ["d/closed"]


def test_a_folder_is_left_out_of_what_is_walked(folder):
    make("d/a.png", "d/out/b.png", "d/out/deep/c.png", "d/out-2/e.png", "f/g.png")
    others = ["d/a.png", "d/out-2/e.png"]
    for exclude in ("d/out", "d/out/", str(folder / "d/out"), "d/../d/out"):
        for typed in ("d", "d/**/*.png", "d/**", "d/*"):
            assert find(typed, exclude=exclude) == others
    empty: list[str] = []
    inside = ["d/out", "d/out/deep", "d/out/*.png", "d/out/*/*.png"]
    assert find(*inside, exclude="d/out", on_empty=empty.append) == []
    assert empty == inside
    write_list("list", "d/out/deep/c.png", "d/out", "f")
    assert find("d/out/b.png", "@list", exclude="d/out") == ["d/out/b.png", "d/out/deep/c.png", "f/g.png"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *((path, True) for path in ("a.png", "missing.png", "@a.png", "./-", "a[1].png")),
        *((path, False) for path in ("-", "@missing", "@list", "list.txt", "missing.TXT", "d", "d.txt", "*.png")),
    ],
)
def test_one_file_differs_from_all_else(folder, path, expected):
    make("a.png", "@a.png", "-", "a[1].png", "list", "list.txt", "d/a.png", "d.txt/a.png")
    assert is_one_file(path) is expected


def test_a_hint_says_what_to_type(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert hint(["gone.png", "~/x.jpg"]).endswith("type: /home/me/x.jpg")
    assert hint(["https://a.b/c d.jpg"]).endswith("download it first: curl -O 'https://a.b/c d.jpg'")
    assert hint(["s3://a/b.jpg"]).endswith("copy it to this machine first: s3://a/b.jpg")


# Lists


def test_a_list_names_files_and_folders_as_they_stand(folder):
    make("d/a10.png", "d/a2.png", "d/e/b.png", "[x].png", "x.png", "-", "@y", "notes.txt", "z*", "z1")
    entries = ["x.png", "d", "[x].png", "-", "@y", "notes.txt", "z*", "missing.png", "?.png", "./x.png"]
    expected = ["x.png", "d/a2.png", "d/a10.png", "d/e/b.png", *entries[2:-1]]
    for name in ("list", "list.txt", "LIST.TXT"):
        write_list(name, *entries)
    for typed in ("@list", "list.txt", "LIST.TXT", "@list.txt", f"@{folder}/list", f"{folder}/list.txt"):
        assert find(typed) == expected, typed
    write_list("list", *entries, end=b"\0")
    assert find("@list") == expected
    assert find("@list", recursive=False) == [path for path in expected if path != "d/e/b.png"]


@pytest.mark.parametrize("typed", ["@d/table.csv", "d/TABLE.tsv"])
def test_the_paths_of_a_table_count_from_the_working_folder_else_from_its_own(folder, typed):
    make("a.png", "d/a.png", "d/e/b.png", "d/@c.png")
    table = "label;path\n\n x;a.png\n;\ny;e/b.png\ny;gone.png\nz;@c.png\nz;e\n"
    Path(typed.removeprefix("@")).write_text(table)
    assert find(typed) == ["a.png", "d/e/b.png", "gone.png", "d/@c.png"]
    Path(typed.removeprefix("@")).write_text("a.png\nb.png\n")
    with pytest.raises(DataError, match="has no column path, found: a.png\nExpected a CSV file .*\nA list without"):
        find(typed)


@pytest.mark.parametrize(
    ("typed", "error", "words"),
    [
        ("good.txt - @none b.txt @d", DataError,
         r"from none \(no such file\), b.txt \(no such file\), d \(a folder; type it without @\)\nA list is a"),
        ("@", DataError, "no list of paths can be read from"),
        ("- -", UsageError, '"-" is given 2 times, but stdin can be read only once'),
        ("- @-", UsageError, "stdin can be read only once"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_opened_are_refused_before_anything_is_given(folder, monkeypatch, typed, error, words):
    make("a.png", "d/b.png", "good.txt")
    stdin = io.BytesIO(b"c.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    with pytest.raises(error, match=words):
        next(find_images(["a.png", *typed.split()]))
    assert stdin.tell() == 0
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="stdin, which is closed\nPipe one"):
        next(find_images(["a.png", "-"]))


def paths(content: bytes) -> list[str]:
    return list(paths_in(io.BufferedReader(io.BytesIO(content)), "names"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\n\nb", ["a", "b"]),
        (b"a\r\nb\r\n\r\nc", ["a", "b", "c"]),
        (b" a \n#b\n*.png\n-\n@c\n", [" a ", "#b", "*.png", "-", "@c"]),
        (b"\0\0a\0\0b", ["a", "b"]),
        (b"a\nb\0c\r\n\0", ["a\nb", "c\r\n"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\0\xef\xbb\xbfb\0", ["a", "\ufeffb"]),
        ("ä\n猫.png\n".encode(), ["ä", "猫.png"]),
        pytest.param(b"\xff.png\0caf\xe9/\x80\n.jpg\0", ["\udcff.png", "caf\udce9/\udc80\n.jpg"], marks=LINUX),
    ],
)
def test_a_list_has_a_path_a_line_or_nuls(content, expected):
    assert paths(content) == expected


class Blocks(io.BytesIO):
    """A stream whose reads give these blocks, one each."""

    def __init__(self, *blocks: bytes) -> None:
        super().__init__()
        self._blocks = list(blocks)

    def read1(self, size: int | None = -1) -> bytes:
        return self._blocks.pop(0) if self._blocks else b""


NAME = st.binary(min_size=1, max_size=5).map(lambda name: name.translate(None, b"\0\r\n")).filter(bool)


@settings(max_examples=40)
@given(st.lists(NAME, max_size=20), st.sampled_from([b"\0", b"\n", b"\r\n"]), st.data())
def test_where_blocks_end_does_not_matter(names, end, data):
    content = b"\xef\xbb\xbffirst" + end + b"".join(name + end for name in names)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(content)), max_size=10)))
    blocks = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert list(paths_in(Blocks(*filter(None, blocks)), "names")) == ["first", *map(os.fsdecode, names)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 200_000, "no list of paths: 65,536 bytes without an end of a line\nName a text file"),
        (b"a\0" + b"x" * 200_000, "no list of paths: 65,536 bytes"),
        ("\ufeffa.png\r\nb.png\r\n".encode("utf-16-le"), "UTF-16 text, expected UTF-8"),
    ],
)
def test_what_is_no_list_is_refused(content, message):
    with pytest.raises(DataError) as caught:
        paths(content)
    assert message in str(caught.value)


FIND = "import sys; from visiontool.data.discover import find_images; print(*map(ascii, find_images(sys.argv[1:])))"


@BASH
def test_lists_come_from_pipes_and_substituted_processes(folder):
    make("d/a.png", "d/b\nc.png")
    script = r"""
        find_images() { "$PYTHON" -c "$CODE" "$@"; }
        printf 'a\r\nb\r\n' | find_images x.png - y.png
        find_images @<(find d -type f -print0 | sort -z) @<(echo b; printf '\xff.png')"""
    environment = {**os.environ, "PYTHON": sys.executable, "CODE": FIND}
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    expected = ["x.png", "a", "b", "y.png", "d/a.png", "d/b\nc.png", "b", "\udcff.png"]
    assert ran.stdout.split() == list(map(ascii, expected))


def test_a_slow_writer_is_served_at_once():
    source, writer = (os.fdopen(number, mode) for number, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    with source, writer:
        paths = paths_in(source, "on a pipe")
        for name in (b"a.png", b"b.png"):
            writer.write(name + b"\n")
            writer.flush()
            assert next(paths) == name.decode()  # else both would wait for each other


# Counts and costs


def test_the_count_is_that_of_what_is_found_and_has_duplicates_in_it(folder):
    make("d/a.png", "d/b.jpg", "d/.c.png", "d/notes.txt", "d/e/f.png", "d/e/g/h.png", "d/out/j.png", "[x].png")
    os.symlink(".", "d/loop")
    write_list("list.txt", "d/e", "missing.png", "[x].png")
    for typed in (["d"], ["."], ["a.png", "none.png"], ["d/*.png"], ["d/**"], ["**"], ["none/**"], ["list.txt"]):
        for options in ({}, {"recursive": False}, {"exclude": "d/out"}):
            assert count_images(typed, **options) == len(find(*typed, **options))
    assert count_images(["d", "d/a.png", "d/*.png"]) > len(find("d", "d/a.png", "d/*.png"))
    assert count_images(["d"], stop=lambda: True) is None


def test_there_is_no_count_where_a_list_can_be_read_only_once_or_not_at_all(folder, monkeypatch):
    make("a.png")
    Path("noise").write_bytes(b"\1" * 100_000)
    stdin = io.BytesIO(b"a.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    for typed in ("-", "@none", "none.txt", "@noise", "@/dev/null", "@"):
        assert count_images(["a.png", typed]) is None, typed
    assert stdin.tell() == 0
    assert [is_fed(typed) for typed in ("-", "@-", "a.png", "@noise")] == [True, True, False, False]
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe")
        assert is_fed("@pipe")
        assert count_images(["@pipe"]) is None  # and is not waited for

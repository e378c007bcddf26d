import io
import os
import shutil
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from visiontool.data.discover import count_images, find_images, is_fed, is_one_file
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


def found(*paths: str, **options: object) -> list[str]:
    return list(find_images(paths, **options))


def left_out(*paths: str, **options: object) -> dict[str, list[str]]:
    """What is left out, by kind."""
    passed: dict[str, list[str]] = {}
    found(*paths, on_pass=lambda kind, path: passed.setdefault(kind, []).append(path), **options)
    return passed


@pytest.mark.parametrize(
    ("names", "typed", "expected"),
    [
        ("b.png a.png p/c.png", "b.png p a.png", "b.png p/c.png a.png"),
        ("notes.md .h.png", "notes.md .h.png gone.png no/such/ ~", "notes.md .h.png gone.png no/such/ ~"),
        ("d/a.JPG d/b.jpeg d/n.txt d/Thumbs.db d/noextension d/e.tar.gz d/f.webp", "d", "d/a.JPG d/b.jpeg d/f.webp"),
        ("d/img10.png d/img2.png d/IMG1.png d/b.png d/A.png d/2.png d/10.png d/010.png", "d",
         "d/2.png d/010.png d/10.png d/A.png d/b.png d/IMG1.png d/img2.png d/img10.png"),
        ("d/a1.png d/a01.png d/A1.png d/a1.PNG d/a1.png.png", "d", "d/A1.png d/a01.png d/a1.PNG d/a1.png d/a1.png.png"),
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
        ("a.png d/b2.png d/b10.png d/deep/c.png d/.git/e.png d/__MACOSX/f.png", "**/*.png",
         "a.png d/b2.png d/b10.png d/deep/c.png"),
        ("a.png d/b2.png d/deep/c.png d/deep/n.txt", "**", "./a.png ./d/b2.png ./d/deep/c.png"),
        ("d/[x]/a/c.png d/x/c.png", "d/**/c.png", "d/[x]/a/c.png d/x/c.png"),
    ],
)  # fmt: skip
def test_what_paths_mean(folder, names, typed, expected):
    make(*names.split())
    assert found(*typed.split()) == expected.split()


def test_names_of_any_kind_are_found(folder):
    names = ["d/a\nb.png", "d/c\td.png", "d/e f.png", 'd/g".png', "d/h\\.png", "d/\u202ei.png"]
    make(*names)
    os.symlink("none.png", "d/z.png")  # broken: whoever opens it says so
    for typed in ("d", "d/*.png", "**/*.png"):
        assert sorted(found(typed)) == sorted([*names, "d/z.png"])
    assert found("", "a\0b.png", "\ud800.png") == ["", "a\0b.png", "\ud800.png"]


def test_links_to_folders_are_followed_once_each_behind_the_folders_themselves(folder):
    make("elsewhere/a.png", "elsewhere/in/c.png", "d/b.png", "d/e/f.png")
    os.symlink("../elsewhere", "d/a link")
    os.symlink("../elsewhere", "d/album.jpg")
    os.symlink("../../elsewhere/in", "d/e/in")
    os.symlink(".", "d/loop")
    os.symlink("..", "d/e/back")
    os.symlink("../d", "elsewhere/back")
    expected = ["d/b.png", "d/e/f.png", "d/a link/a.png", "d/a link/in/c.png"]
    passed = left_out("d")
    assert found("d") == expected
    assert sorted(passed["repeated"]) == ["d/a link/back", "d/album.jpg", "d/e/back", "d/e/in", "d/loop"]
    assert found("d/**/*.png") == expected
    assert found("elsewhere/in", "d") == ["elsewhere/in/c.png", *expected[:3]]
    assert found("d", recursive=False) == ["d/b.png"]
    assert sorted(left_out("d", recursive=False)["sub-folders"]) == ["d/a link", "d/album.jpg", "d/e", "d/loop"]


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
BMP = b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        *((name, PNG, "") for name in ("IMG_0001", "a.jpg_large", "b.dng", "c.jpg.1", "d.image", "e.bin", "f.PNG~")),
        *(("a", head, "") for head in (BMP, b"P6\n# GIMP\n8 8", b"P1 8 8", b"II*\0", b"\xff\xd8\xff\xe1", b"GIF89a")),
        *(
            ("a", text, "not pictures")
            for text in (b"", b"BMW and Audi", b"P1 is next", b"<html>", b"hello", b"\0" * 99)
        ),
        *((name, PNG, "not pictures") for name in ("labels.txt", "a.JSON", "b.zip")),  # not opened
        *((f"a.{raw}", b"II*\0\x10\0\0\0CR", "unsupported") for raw in ("dng", "CR2", "nef")),
        ("a.raf", b"FUJIFILMCCD-RAW ", "unsupported"),
        ("a", b"8BPS", "unsupported"),
        (".hidden", PNG, "hidden"),
        ("__MACOSX/a.png", PNG, "junk"),
    ],
)
def test_what_no_extension_tells_the_first_bytes_do(folder, name, content, kind):
    path = Path("d", name)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert found("d") == ([] if kind else [f"d/{name}"])
    assert count_images(["d"]) == (not kind)
    given = f"d/{name}".removesuffix("MACOSX/a.png") + "MACOSX" * (kind == "junk")
    assert left_out("d", ".", "d") == ({kind: [given]} if kind else {"repeated": [f"./{given}", given]})


@LINUX
def test_what_is_no_regular_file_is_never_opened(folder, monkeypatch):
    os.mkdir("d")
    os.mkfifo("d/pipe")
    for name, target in (("zero", "/dev/zero"), ("tty", "/dev/tty"), ("gone", "nothing"), ("self", "self")):
        os.symlink(target, f"d/{name}")
    assert left_out("d") == {"not pictures": ["d/pipe", "d/tty", "d/zero"], "unreadable": ["d/gone", "d/self"]}
    monkeypatch.setattr(os, "open", None)
    assert found("/proc/self/attr") == []  # these say that they are empty, and some wait


def test_each_real_file_is_given_once(folder):
    make("d/a.png", "e/b.png")
    os.symlink("../d/a.png", "e/a-again.png")
    assert found("d/a.png", "d", "./d/../d/a.png", str(folder / "d/a.png"), "e", "d/*.png") == ["d/a.png", "e/b.png"]


def test_what_holds_no_picture_is_told(folder):
    make("d/a.png", "texts/notes.txt")
    empty: list[str] = []
    assert found("texts", "d", "*.gif", "missing.png", "d", on_empty=empty.append) == ["d/a.png", "missing.png"]
    assert empty == ["texts", "*.gif"]


def unreadable(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    scandir = os.scandir

    def guarded(path: str) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)


def test_a_folder_that_cannot_be_read_is_given_itself(folder, monkeypatch):
    make("d/a.png", "d/closed/b.png", "d/open/c.png")
    unreadable(monkeypatch, "d/closed")
    assert found("d") == ["d/a.png", "d/closed", "d/open/c.png"]
    assert found("d/closed") == ["d/closed"]
    assert found("d/closed/*.png") == []
    assert found("d/**/*.png") == ["d/a.png", "d/closed", "d/open/c.png"]


def test_folders_are_read_one_at_a_time(folder, monkeypatch):
    make("d/a.png", "d/b.png", "d/e/c.png", "f/g.png")
    read: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: read.append(path) or scandir(path))
    pictures = find_images(["d", "f"])
    assert read == []
    assert list(islice(pictures, 2)) == ["d/a.png", "d/b.png"]
    assert read == ["d"]
    assert list(pictures) == ["d/e/c.png", "f/g.png"]
    assert read == ["d", "d/e", "f"]


@LINUX
def test_names_that_are_not_utf8_are_found(folder):
    os.mkdir("d")
    Path(os.fsdecode(b"d/\xff.png")).touch()
    assert found("d") == ["d/\udcff.png"]
    assert found("d/*.png") == ["d/\udcff.png"]


def test_a_file_is_given_once_though_folders_on_its_way_are_links(folder):
    make("real/x/a.png")
    os.symlink("real", "link")
    os.symlink("real/x/a.png", "a.png")
    assert found("link", "real", "real/x", "link/x/a.png", "a.png", "*.png") == ["link/x/a.png"]
    assert found("a.png", "link/*") == ["a.png"]


def write_list(name: str, *entries: str, end: bytes = b"\n") -> None:
    Path(name).write_bytes(b"".join(os.fsencode(entry) + end for entry in entries))


def test_a_list_names_files_and_folders_as_they_stand(folder):
    make("d/a10.png", "d/a2.png", "d/e/b.png", "[x].png", "x.png", "-", "@y", "notes.txt", "z*", "z1")
    os.mkdir("empty")
    entries = ["x.png", "d", "[x].png", "-", "@y", "notes.txt", "z*", "missing.png", "?.png", "./x.png"]
    expected = [
        *("x.png", "d/a2.png", "d/a10.png", "d/e/b.png", "[x].png", "-", "@y", "notes.txt", "z*"),
        *("missing.png", "?.png"),
    ]
    write_list("list", *entries)
    write_list("list.txt", *entries)
    write_list("LIST.TXT", *entries)
    for typed in ("@list", "list.txt", "LIST.TXT", "@list.txt", "@./list", f"@{folder}/list", f"{folder}/list.txt"):
        assert found(typed) == expected, typed
    write_list("list", *entries, end=b"\0")
    assert found("@list") == expected
    assert found("@list", recursive=False) == [path for path in expected if path != "d/e/b.png"]


def test_what_is_called_like_a_list_is_meant_before_one(folder):
    make("@a.jpg", "@d/b.png", "@*.png")
    write_list("a.jpg", "from the list")
    write_list("d", "from the list")
    write_list("@list.txt", "from the list")
    assert found("@a.jpg") == ["@a.jpg"]
    assert found("@d") == ["@d/b.png"]
    assert found("@*.png") == ["@*.png"]
    assert found("@list.txt") == ["from the list"]
    assert found("./@a.jpg", "@@a.jpg") == ["./@a.jpg"]


@pytest.mark.parametrize("typed", ["@d/table.csv", "d/TABLE.tsv"])
def test_the_paths_of_a_table_count_from_the_working_folder_else_from_its_own(folder, typed):
    make("a.png", "d/a.png", "d/e/b.png", "d/@c.png")
    table = "label;path\n\n x;a.png\n;\ny;e/b.png\ny;gone.png\nz;@c.png\nz;e\n"
    Path(typed.removeprefix("@")).write_text(table)
    assert found(typed) == ["a.png", "d/e/b.png", "gone.png", "d/@c.png"]
    assert count_images([typed]) == 5
    Path(typed.removeprefix("@")).write_text("a.png\nb.png\n")
    with pytest.raises(DataError, match="has no column path, found: a.png\nExpected a CSV file .*\nA list without"):
        found(typed)


def test_lists_that_cannot_be_opened_are_told_before_anything_is_given(folder, monkeypatch):
    make("a.png", "d/b.png")
    stdin = io.BytesIO(b"c.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    write_list("good.txt", "x.png")
    pictures = find_images(["a.png", "good.txt", "-", "@none", "b.txt", "@d"])
    with pytest.raises(DataError, match=r"from none \(No .*\), b.txt \(No .*\), d \(a folder; type it without @\)\n"):
        next(pictures)
    with pytest.raises(UsageError, match="stdin can be read only once"):
        next(find_images(["a.png", "-", "-"]))
    with pytest.raises(UsageError, match="stdin can be read only once"):
        next(find_images(["a.png", "-", "@-"]))
    assert stdin.tell() == 0
    with pytest.raises(DataError):
        next(find_images(["@"]))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="closed"):
        next(find_images(["a.png", "-"]))
    assert found("a.png", "./-") == ["a.png", "./-"]


def test_empty_lists_and_folders_in_lists_are_told(folder):
    make("d/a.png", "texts/notes.txt")
    write_list("nothing", "", "")
    write_list("list", "texts", "d", "missing.png", "d", "empty")
    os.mkdir("empty")
    empty: list[str] = []
    assert found("@nothing", "@list", "empty", on_empty=empty.append) == ["d/a.png", "missing.png"]
    assert empty == ["@nothing", "texts", "empty", "empty"]
    assert found("@nothing") == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.png", True),
        ("missing.png", True),
        ("@a.png", True),
        ("./-", True),
        ("a[1].png", True),
        ("-", False),
        ("@missing", False),
        ("@list", False),
        ("list.txt", False),
        ("missing.TXT", False),
        ("d", False),
        ("d.txt", False),
        ("*.png", False),
    ],
)
def test_one_file_is_told_from_all_else(folder, path, expected):
    make("a.png", "@a.png", "-", "a[1].png", "list", "list.txt", "d/a.png", "d.txt/a.png")
    assert is_one_file(path) is expected


FIND = (
    "import sys; from visiontool.data.discover import find_images; [print(ascii(p)) for p in find_images(sys.argv[1:])]"
)


def from_shell(script: str) -> list[str]:
    """What is found by `script`, in which "$FIND" followed by paths finds them."""
    ran = subprocess.run(
        ["bash", "-c", f'find_images() {{ "$PYTHON" -c "$CODE" "$@"; }}\n{script}'],
        env={**os.environ, "PYTHON": sys.executable, "CODE": FIND},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


@BASH
def test_lists_come_from_pipes_and_substituted_processes(folder):
    make("d/a.png", "d/b\nc.png", "d/e f.png")
    everything = ["'d/a.png'", "'d/b\\nc.png'", "'d/e f.png'"]
    assert from_shell(r"printf 'a\nb' | find_images -") == ["'a'", "'b'"]
    assert from_shell(r"printf 'a\r\nb\r\n' | find_images x.png - y.png") == ["'x.png'", "'a'", "'b'", "'y.png'"]
    assert sorted(from_shell("find d -type f -print0 | find_images -")) == everything
    assert sorted(from_shell("find_images @<(find d -type f -print0)")) == everything
    assert from_shell("find_images @<(echo a) @<(echo b; echo a) @/dev/stdin <<< c") == ["'a'", "'b'", "'c'"]
    assert from_shell("find_images - < <(find d -type f -name 'a*')") == ["'d/a.png'"]
    assert from_shell(r"find_images @<(printf 'a\0\xff.png\0')") == ["'a'", "'\\udcff.png'"]
    assert from_shell("find_images a - < /dev/null") == ["'a'"]


def test_a_folder_is_left_out_of_what_is_walked(folder):
    make("d/a.png", "d/out/b.png", "d/out/deep/c.png", "d/out-2/e.png", "f/g.png")
    os.symlink("d", "link")
    os.symlink("out/b.png", "d/z.png")
    kept = ["d/a.png", "d/z.png", "d/out-2/e.png"]
    for exclude in ("d/out", "d/out/", "./link/out", str(folder / "d/out"), "d/../d/out"):
        assert found("d", exclude=exclude) == kept
        assert found("d/**/*.png", exclude=exclude) == kept
        assert found("d/**", exclude=exclude) == kept
        assert sorted(found("*/*", exclude=exclude)) == sorted([*kept, "f/g.png"])
        assert found("link", exclude=exclude) == ["link/a.png", "link/z.png", "link/out-2/e.png"]
    empty: list[str] = []
    inside = ["d/out", "d/out/deep", "d/out/*.png", "d/out/*/*.png", "link/out/b*"]
    assert found(*inside, exclude="d/out", on_empty=empty.append) == []
    assert empty == inside
    assert found("d/out/b.png", exclude="d/out") == ["d/out/b.png"]
    write_list("list", "d/out/deep/c.png", "d/out", "f")
    assert found("@list", exclude="d/out") == ["d/out/deep/c.png", "f/g.png"]
    assert found("f", exclude="none/yet") == ["f/g.png"]
    assert found(".", exclude=".") == []


def most_held(*paths: str) -> int:
    """The most bytes held at a time while these are found."""
    found(*paths)  # what is imported and cached by it is not meant
    tracemalloc.start()
    try:
        for _ in find_images(paths):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_the_names_of_two_folders_are_held_at_a_time(folder):
    count = 2000
    make(*(f"{name}/IMG_{number:06d}.jpg" for name in ("d", "d/e", "f", "f/g", "h") for number in range(count)))
    for paths in (["d"], ["d", "f", "h"], ["d/*.jpg", "f/*.jpg"], ["**/*.jpg"]):
        most = 300 * count + 170 * len(found(*paths))  # two folders and the keys of one; the hashes of all
        assert most_held(*paths) < most, paths


@pytest.mark.slow
def test_a_long_list_is_held_as_hashes(folder):
    count = 20_000
    write_list("list", *(f"some/folder/IMG_{number:06d}.jpg" for number in range(count)))
    assert most_held("@list") < 170 * count


def all_kinds_of_folders() -> None:
    make("d/a.png", "d/b.jpg", "d/.c.png", "d/notes.txt", "d/e/f.png", "d/e/g/h.png", "d/__MACOSX/i.png", "d/out/j.png")
    make("d/.k/l.png", "m/n.png", "m/album.png/o.png", "[x].png")
    os.mkdir("empty")
    os.symlink(".", "d/loop")
    os.symlink("none", "d/broken.png")
    os.symlink("self.png", "d/self.png")
    os.symlink("../.hidden", "d/link.png")
    make(".hidden/p.png", ".hidden/q/r.png")
    write_list("list.txt", "d/e", "missing.png", "[x].png")
    write_list("list", "d/e/g", "m", "other.png", end=b"\0")


def test_the_count_is_that_of_what_is_found_and_has_duplicates_in_it(folder):
    all_kinds_of_folders()
    for typed in (
        *(["d"], ["."], ["m", "d", "empty"], ["a.png", "none.png", ""], ["d/*.png"], ["?/[abns]*"], ["d/**"], ["**"]),
        *(["**/*.jpg"], ["none/**", "none/*"], ["[x].png"], ["@list"], ["list.txt"], ["d/a.png", "list.txt", "*.gif"]),
    ):
        for options in ({}, {"recursive": False}, {"exclude": "d/out"}, {"recursive": False, "exclude": "d/e"}):
            assert count_images(typed, **options) == len(found(*typed, **options))
    assert count_images(["d", "d/a.png", "d/*.png"]) > len(found("d", "d/a.png", "d/*.png"))


def test_there_is_no_count_where_a_list_can_be_read_only_once_or_not_at_all(folder, monkeypatch):
    make("a.png")
    Path("noise").write_bytes(b"\1" * 100_000)
    stdin = io.BytesIO(b"a.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    for typed in ("-", "@none", "none.txt", "@noise", "@/dev/null", "@"):
        assert count_images(["a.png", typed]) is None, typed
    assert stdin.tell() == 0
    assert [is_fed(typed) for typed in ("-", "@-", "@/dev/stdin", "a.png", "@noise")] == [True] * 3 + [False] * 2
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe")
        assert count_images(["@pipe"]) is None  # and is not waited for


def test_counting_ends_when_it_is_told_to(folder):
    all_kinds_of_folders()
    make(*(f"many/{number}.png" for number in range(50)))
    for typed in (["many"], ["d"], ["many/*"], ["list.txt"], ["**/*.png"], ["a", "b", "c"]):
        total = count_images(typed)
        for calls in range(3):
            answers = iter([False] * calls + [True])
            assert count_images(typed, stop=lambda answers=answers: next(answers)) is None
        assert count_images(typed, True, None, lambda: False) == total

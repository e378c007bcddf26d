"""Sorting pictures into class folders, and back: nothing is overwritten or lost, whenever a run is killed."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from visiontool.errors import DataError, PictureError, UsageError
from visiontool.sort import Sorter, SortError, Undone, placing, undo
from visiontool.sort.class_folders import ERROR, UNKNOWN, class_folders
from visiontool.sort.journal import NAME, Journal
from visiontool.sort.offsets import Offsets

MODES = ["copy", "link", "move"]
LABELS = ["cat", "dog"]
all_modes = pytest.mark.parametrize("mode", MODES)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes as a name")
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


def make(path, content=None):
    """A file with its own content, an old time and permissions that are not the default."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path) if content is None else content)
    os.utime(path, ns=(10**18 + 1, 10**18 + len(path.name)))
    path.chmod(0o640)
    return str(path)


def tree(folder, journal=False):
    """Everything below `folder`: what a link says, or content, time and permissions of a file."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.name == NAME and not journal:
            continue
        status = path.lstat()
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_dir():
            found[str(path)] = "folder"
        else:
            found[str(path)] = (path.read_bytes(), status.st_mtime_ns, oct(status.st_mode))
    return found


def sort(folder, mode, *paths, class_id=0, labels=LABELS, **options):
    with Sorter(Path(folder), mode, labels) as sorter:
        return [sorter.place(str(path), class_id, **options) for path in paths]


def left_by(folder):
    """What an undo gives, and the names that it left with their reasons."""
    left = {}
    undone = undo(Path(folder), lambda path, reason: left.update({Path(path).name: reason}))
    assert undone.left == len(left)
    return undone, left


def lines_of(folder):
    return [json.loads(line) for line in (Path(folder) / NAME).read_bytes().splitlines()]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def far(tmp_path):
    """A path on another file system than `tmp_path`; nothing is there."""
    path = Path("/dev/shm", f"visiontool-{os.getpid()}")
    if not path.parent.is_dir() or path.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    yield path
    shutil.rmtree(path, ignore_errors=True)


# --- names of folders


def test_a_label_that_is_safe_is_its_folder():
    labels = ["cat", "crane (bird)", "Große Äpfel", "猫", "e.g", "a_b", "👩‍🚀", "-x"]
    assert class_folders(labels) == tuple(labels)


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("", "_"),
        (".", "_"),
        ("..", "_"),
        ("../../etc", "_.._etc"),
        ("/etc/passwd", "_etc_passwd"),
        ("C:\\x", "C__x"),
        (" .hidden. ", "hidden"),
        ('a<b>:"|?*', "a_b_______"[:9]),
        ("a\nb\x00\x7f\x9b", "a_b___"),
        ("\u202egpj", "_gpj"),
        ("nul", "_nul"),
        ("Com1.jpg", "_Com1.jpg"),
        ("CON .x", "_CON .x"),
        ("console", "console"),
        ("e\u0301", "\xe9"),
        ("\ud800", "_"),
        ("x" * 300, "x" * 255),
        ("é" * 200, "é" * 127),
        ("_error", "_error (2)"),
        ("_UNKNOWN", "_UNKNOWN (2)"),
    ],
)
def test_a_label_that_is_not_safe_gets_a_folder_that_is(label, folder):
    assert class_folders([label]) == (folder,)


def test_labels_whose_folders_would_be_one_get_numbers():
    labels = ["a/b", "A_B", "a:b", "\xe9", "e\u0301", "straße", "STRASSE", "x" * 300, "x" * 301]
    assert class_folders(labels) == (
        *("a_b", "A_B (2)", "a_b (3)", "\xe9", "\xe9 (2)", "straße", "STRASSE (2)"),
        *("x" * 255, "x" * 251 + " (2)"),
    )
    assert class_folders(["a", "a (2)", "A"]) == ("a", "a (2)", "A (3)")


hostile_labels = st.text(st.sampled_from("aAbB._ /\\:*\x00\n\x7fé\u0301ßſKknulcom1()2\ud800\U0001f600ı"), max_size=8)


@given(st.lists(st.one_of(st.text(), hostile_labels, st.sampled_from(["_error", "_unknown", "NUL"])), unique=True))
def test_any_labels_give_safe_folders_of_their_own(labels):
    names = class_folders(labels)
    assert len(names) == len(labels)
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    assert len({*folded, UNKNOWN, ERROR}) == len(names) + 2
    for name in names:
        assert 1 <= len(name.encode()) <= 255
        assert Path("out", name).parent == Path("out")
        assert not set(name) & set('<>:"/\\|?*')
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
        assert name == name.strip(". ")
        assert name.partition(".")[0].strip().lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")


def test_a_hundred_thousand_labels_of_one_name_are_no_trouble():
    begin = time.monotonic()
    assert len(set(class_folders(["?" * number for number in range(1, 300)] + ["/"] * 30_000))) == 30_299
    assert time.monotonic() - begin < 10


# --- placing


def test_a_copy_has_content_time_and_permissions_and_the_original_stays(tmp_path, out):
    source = make(tmp_path / "in" / "a.jpg")
    before = tree(tmp_path / "in")
    assert sort(out, "copy", source) == [str(out / "cat" / "a.jpg")]
    assert tree(tmp_path / "in") == before
    assert tree(out)[str(out / "cat" / "a.jpg")] == before[source]


@needs_links
def test_a_link_is_absolute_and_to_the_path_as_it_was_given(tmp_path, out, monkeypatch):
    make(tmp_path / "in" / "a.jpg")
    (tmp_path / "link.jpg").symlink_to("in/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert sort("out", "link", "link.jpg", "./in/a.jpg") == ["out/cat/link.jpg", "out/cat/a.jpg"]
    assert os.readlink(out / "cat" / "link.jpg") == str(tmp_path / "link.jpg")
    assert os.readlink(out / "cat" / "a.jpg") == str(tmp_path / "in" / "a.jpg")


def test_a_move_takes_the_file_itself(tmp_path, out):
    source = make(tmp_path / "in" / "a.jpg")
    before, inode = tree(tmp_path / "in")[source], os.stat(source).st_ino
    sort(out, "move", source)
    assert tree(out)[str(out / "cat" / "a.jpg")] == before
    assert os.stat(out / "cat" / "a.jpg").st_ino == inode
    assert tree(tmp_path / "in") == {}


@needs_links
def test_a_moved_link_still_leads_to_its_picture_and_comes_back_as_it_was(tmp_path, out):
    make(tmp_path / "real.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to("../real.jpg")
    before = tree(tmp_path)
    sort(out, "move", tmp_path / "in" / "a.jpg")
    assert (out / "cat" / "a.jpg").read_bytes() == (tmp_path / "real.jpg").read_bytes()
    assert not os.path.lexists(tmp_path / "in" / "a.jpg")
    assert undo(out) == Undone(1, 0, 0)
    assert tree(tmp_path) == before


@all_modes
def test_nothing_is_overwritten_and_names_are_counted_on(tmp_path, out, mode):
    theirs = make(out / "cat" / "a.tar.gz", b"precious")
    sources = [make(tmp_path / str(number) / "a.tar.gz") for number in range(5)]
    contents = [Path(source).read_bytes() for source in sources]
    names = [Path(place).name for place in sort(out, mode, *sources)]
    assert names == [f"a.tar-{number}.gz" for number in range(2, 7)]
    assert [(out / "cat" / name).read_bytes() for name in names] == contents
    assert Path(theirs).read_bytes() == b"precious"


def test_a_name_that_grows_too_long_gets_shorter(tmp_path, out):
    sources = [make(tmp_path / folder / ("é" * 125 + ".jpg"), folder.encode()) for folder in "abc"]
    names = [Path(place).name for place in sort(out, "copy", *sources)]
    assert names == ["é" * 125 + ".jpg", "é" * 124 + "-2.jpg", "é" * 124 + "-3.jpg"]


def test_many_files_of_one_name_are_found_room_for_in_few_looks(tmp_path, monkeypatch):
    looks = Counter()
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: looks.update(["look"]) or real(path))
    for number in range(1, 1500):
        name = placing.free_name(str(tmp_path), "img.jpg")
        assert name == ("img.jpg" if number == 1 else f"img-{number}.jpg")
        (tmp_path / name).touch()
    assert looks["look"] < 1500 * 24


@linux_only
@all_modes
def test_names_of_any_bytes_are_placed_and_come_back(tmp_path, out, mode):
    sources = [make(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/in/\xff\n.jpg", b"/i\xfe/\xff\n.jpg")]
    before = tree(tmp_path)
    places = sort(out, mode, *sources)
    assert [os.fsencode(place) for place in places] == [
        os.fsencode(out) + b"/cat/\xff\n.jpg", os.fsencode(out) + b"/cat/\xff\n-2.jpg",
    ]  # fmt: skip
    assert sort(out, mode, *sources) == places
    assert undo(out) == Undone(2, 0, 0)
    assert tree(tmp_path) == before


@all_modes
def test_unknown_and_error_have_their_own_folders(tmp_path, out, mode):
    sources = [make(tmp_path / "in" / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    with Sorter(out, mode, ["_error", "x"]) as sorter:
        assert sorter.place(sources[0], None) == str(out / ERROR / "a.jpg")
        assert sorter.place(sources[1], 1, unknown=True) == str(out / UNKNOWN / "b.jpg")
        assert sorter.place(sources[2], 0) == str(out / "_error (2)" / "c.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@all_modes
def test_an_unreadable_input_that_is_no_file_stays_where_it_is(tmp_path, out, mode):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        paths = [tmp_path / name for name in ("folder", "pipe", "dangling", "loop", "socket", "gone", "a\0b")]
        assert sort(out, mode, *paths, "/dev/null", "", class_id=None) == [None] * 9
        for path in paths:
            with pytest.raises(PictureError, match="no longer there"):
                sort(out, mode, path)
    assert tree(out) == {}


@all_modes
def test_the_error_folder_takes_links_to_files_too(tmp_path, out, mode):
    make(tmp_path / "real")
    (tmp_path / "link.jpg").symlink_to("real")
    (place,) = sort(out, mode, tmp_path / "link.jpg", class_id=None)
    assert Path(place).read_bytes() == os.fsencode(tmp_path / "real")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_cannot_be_read_or_taken_away_does_not_stop_the_others(tmp_path, out):
    closed, fixed, fine = (make(tmp_path / "in" / name) for name in ("a.jpg", "b.jpg", "c.jpg"))
    os.chmod(closed, 0)
    with Sorter(out, "copy", LABELS) as sorter:
        with pytest.raises(PictureError, match="cannot be copied: Permission denied"):
            sorter.place(closed, 0)
        assert sorter.place(fine, 0)
    assert list(tree(out)) == [str(out / "cat"), str(out / "cat" / "c.jpg")]
    (tmp_path / "in").chmod(0o500)
    try:
        with pytest.raises(PictureError, match="cannot be moved: Permission denied"):
            sort(out, "move", fixed)
    finally:
        (tmp_path / "in").chmod(0o700)
    assert os.path.exists(fixed)
    assert list(tree(out)) == [str(out / "cat"), str(out / "cat" / "c.jpg")]


def test_a_move_whose_source_may_not_go_leaves_one_name_only(tmp_path, out, monkeypatch):
    stays, fine = make(tmp_path / "in" / "a.jpg"), make(tmp_path / "in" / "b.jpg")
    real = os.unlink

    def refusing(path, **options):
        if path == stays:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(path, **options)

    monkeypatch.setattr(os, "unlink", refusing)
    with Sorter(out, "move", LABELS) as sorter:
        with pytest.raises(PictureError, match="cannot be moved: Operation not permitted"):
            sorter.place(stays, 0)
        assert sorter.place(fine, 0) == str(out / "cat" / "b.jpg")
    assert os.stat(stays).st_nlink == 1
    assert undo(out) == Undone(1, 0, 0)


def test_a_picture_that_is_written_at_the_same_time_is_not_copied_half(tmp_path, out, monkeypatch):
    source = make(tmp_path / "a.jpg", b"x" * 100)
    real = shutil.copyfileobj

    def slow(*arguments):
        real(*arguments)
        with open(source, "ab") as file:
            file.write(b"more")

    monkeypatch.setattr(shutil, "copyfileobj", slow)
    with pytest.raises(PictureError, match="changed while"):
        sort(out, "copy", source)
    assert list(tree(out)) == [str(out / "cat")]


def test_a_picture_in_its_folder_already_is_left_there(tmp_path):
    names = ["a.jpg", "b.jpg"]
    for name in names:
        make(tmp_path / name)
    before = tree(tmp_path)
    first = sort(tmp_path, "move", *(tmp_path / name for name in names))
    after = tree(tmp_path)
    assert sort(tmp_path, "move", *first) == first
    assert tree(tmp_path) == after
    (again,) = sort(tmp_path, "move", first[0], class_id=1)
    assert again == str(tmp_path / "dog" / "a.jpg")
    assert undo(tmp_path) == Undone(3, 0, 0)
    assert tree(tmp_path) == before


# --- again


@all_modes
def test_a_second_run_changes_nothing_and_says_where_everything_is(tmp_path, out, mode):
    sources = [make(tmp_path / "in" / folder / "a.jpg") for folder in "xyz"]
    places = sort(out, mode, *sources)
    before = tree(tmp_path, journal=True)
    assert sort(out, mode, *reversed(sources)) == places[::-1]
    assert sort(out, mode, *sources, class_id=1) == places  # it stays where it is
    with Sorter(out, mode, LABELS) as sorter:
        assert [sorter.placed(source) for source in (*sources, "other.jpg")] == [*places, None]
        assert sorter.place(sources[0], None if mode == "move" else 0) == places[0]
    assert tree(tmp_path, journal=True) == before


@all_modes
def test_one_path_twice_in_one_run_is_placed_once(tmp_path, out, mode):
    source = make(tmp_path / "a.jpg")
    assert sort(out, mode, source, source) == [str(out / "cat" / "a.jpg")] * 2
    assert undo(out) == Undone(1, 0, 0)


def test_what_lost_its_place_or_was_changed_is_placed_again(tmp_path, out):
    gone, changed = make(tmp_path / "a.jpg"), make(tmp_path / "b.jpg")
    sort(out, "copy", gone, changed)
    os.unlink(out / "cat" / "a.jpg")
    make(changed, b"other content")
    assert sort(out, "copy", gone, changed) == [str(out / "cat" / "a.jpg"), str(out / "cat" / "b-2.jpg")]
    assert (out / "cat" / "b-2.jpg").read_bytes() == b"other content"
    assert (out / "cat" / "b.jpg").read_bytes() != b"other content"
    assert sort(out, "copy", gone, changed)[1] == str(out / "cat" / "b-2.jpg")


def test_a_new_picture_under_the_name_of_a_moved_one_is_another(tmp_path, out):
    source = make(tmp_path / "img_0001.jpg", b"first")
    sort(out, "move", source)
    make(source, b"other")
    assert sort(out, "move", source) == [str(out / "cat" / "img_0001-2.jpg")]
    undone, left = left_by(out)
    assert undone == Undone(1, 0, 1)
    assert left == {"img_0001.jpg": f"cannot go back: {source} is there now"}
    assert Path(source).read_bytes() == b"other"
    assert (out / "cat" / "img_0001.jpg").read_bytes() == b"first"


def test_a_copy_whose_time_the_file_system_rounds_is_known_by_its_content(tmp_path, out):
    source = make(tmp_path / "a.jpg")
    (place,) = sort(out, "copy", source)
    os.utime(place, ns=(0, 10**18))
    assert sort(out, "copy", source) == [place]
    assert undo(out) == Undone(1, 0, 0)


@needs_links
def test_each_mode_does_what_it_says_whatever_was_done_before(tmp_path, out):
    source = make(tmp_path / "in" / "a.jpg")
    before = tree(tmp_path)
    assert sort(out, "link", source) == [str(out / "cat" / "a.jpg")]
    assert sort(out, "copy", source) == [str(out / "cat" / "a-2.jpg")]
    assert sort(out, "move", source) == [str(out / "cat" / "a-3.jpg")]
    assert undo(out) == Undone(3, 0, 0)
    assert tree(tmp_path) == before


# --- undo


@all_modes
def test_undo_puts_everything_back_and_leaves_no_trace(tmp_path, out, mode):
    sources = [make(tmp_path / "in" / folder / "a.jpg") for folder in "xyz"]
    make(out / "dog" / "old.jpg")
    before = tree(tmp_path)
    sort(out, mode, *sources)
    sort(out, mode, make(tmp_path / "in" / "b.jpg"), class_id=1)
    undone, left = left_by(out)
    assert (undone, left) == (Undone(4, 0, 0), {})
    os.unlink(tmp_path / "in" / "b.jpg")
    assert tree(tmp_path, journal=True) == before


@all_modes
def test_a_folder_that_was_made_for_sorting_goes_only_when_it_is_empty(tmp_path, out, mode):
    source = make(tmp_path / "a.jpg")
    sort(out, mode, source)
    undo(out)
    assert not out.exists()
    sort(out, mode, source)
    make(out / "cat" / "mine.txt")
    undo(out)
    assert list(tree(out, journal=True)) == [str(out / "cat"), str(out / "cat" / "mine.txt")]


@all_modes
def test_an_empty_folder_that_was_there_before_stays(tmp_path, out, mode):
    out.mkdir()
    sort(out, mode, make(tmp_path / "a.jpg"))
    assert undo(out) == Undone(1, 0, 0)
    assert out.is_dir()
    assert not os.listdir(out)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_what_a_killed_run_left_goes_once_no_run_is_at_it(tmp_path, out):
    source, unfinished = make(tmp_path / "a.jpg"), out / ".visiontool-0123456789abcdef.partial"
    theirs = make(out / ".visiontool-mine.partial")
    with Sorter(out, "copy", LABELS):
        unfinished.touch()
        sort(out, "copy", source)
        assert unfinished.exists()
    sort(out, "copy", source)
    assert not unfinished.exists()
    unfinished.touch()
    undo(out)
    assert list(tree(out, journal=True)) == [theirs]


def test_undo_works_after_the_folder_was_moved_and_makes_parents_again(tmp_path, out):
    source = make(tmp_path / "in" / "deep" / "a.jpg")
    before = tree(tmp_path)
    sort(out, "move", source)
    shutil.rmtree(tmp_path / "in")
    out.rename(tmp_path / "elsewhere")
    assert undo(tmp_path / "elsewhere") == Undone(1, 0, 0)
    assert tree(tmp_path) == before


def test_undo_of_copies_keeps_whatever_may_be_the_only_one(tmp_path, out):
    names = ["edited.jpg", "changed.jpg", "gone.jpg", "linked.jpg", "missing.jpg", "touched.jpg", "fine.jpg"]
    sources = {name: make(tmp_path / "in" / name) for name in names}
    sort(out, "copy", *sources.values())
    make(out / "cat" / "edited.jpg", b"edited")
    make(sources["changed.jpg"], b"changed")
    os.unlink(sources["gone.jpg"])
    os.unlink(sources["linked.jpg"])
    os.symlink(out / "cat" / "linked.jpg", sources["linked.jpg"])
    os.unlink(out / "cat" / "missing.jpg")
    os.utime(sources["touched.jpg"])
    before = tree(tmp_path / "in")
    undone, left = left_by(out)
    assert undone == Undone(2, 1, 4)
    assert left == {
        "edited.jpg": f"differs from {sources['edited.jpg']}: one of them was changed",
        "changed.jpg": f"differs from {sources['changed.jpg']}: one of them was changed",
        "gone.jpg": f"may be the only copy: {sources['gone.jpg']} is gone",
        "linked.jpg": f"differs from {sources['linked.jpg']}: one of them was changed",
    }
    assert sorted(path.name for path in (out / "cat").iterdir()) == sorted(left)
    assert tree(tmp_path / "in") == before


@needs_links
def test_undo_of_links_keeps_what_is_no_longer_the_link(tmp_path, out):
    names = ["file.jpg", "other.jpg", "missing.jpg", "dangling.jpg"]
    sources = [make(tmp_path / "in" / name) for name in names]
    sort(out, "link", *sources)
    for name in names[:3]:
        os.unlink(out / "cat" / name)
    make(out / "cat" / "file.jpg", b"")
    (out / "cat" / "other.jpg").symlink_to("elsewhere")
    os.unlink(sources[3])
    undone, left = left_by(out)
    assert undone == Undone(1, 1, 2)
    assert left == dict.fromkeys(names[:2], "is not the link that was made")
    assert sort(out, "link", sources[0]) == [str(out / "cat" / "file-2.jpg")]
    assert (out / "cat" / "file.jpg").read_bytes() == b""


def test_what_could_not_be_undone_can_be_undone_later(tmp_path, out):
    sources = [make(tmp_path / "in" / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    before = tree(tmp_path)
    sort(out, "move", *sources)
    make(sources[1], b"new")
    (out / "cat" / "c.jpg").rename(tmp_path / "c.jpg")
    undone, left = left_by(out)
    assert undone == Undone(1, 0, 2)
    assert left == {"b.jpg": f"cannot go back: {sources[1]} is there now", "c.jpg": "is gone"}
    assert Path(sources[1]).read_bytes() == b"new"
    assert [line["to"] for line in lines_of(out)[3:]] == ["cat/b.jpg", "cat/c.jpg"]
    assert left_by(out) == (Undone(0, 0, 2), left)
    os.unlink(sources[1])
    (tmp_path / "c.jpg").rename(out / "cat" / "c.jpg")
    assert undo(out) == Undone(2, 0, 0)
    assert tree(tmp_path) == before


def test_a_parent_that_is_a_file_now_is_a_reason_in_words(tmp_path, out):
    source = make(tmp_path / "in" / "a.jpg")
    sort(out, "move", source)
    (tmp_path / "in").rmdir()
    make(tmp_path / "in")
    undone, left = left_by(out)
    assert undone == Undone(0, 0, 1)
    assert left["a.jpg"] in ("File exists", "Not a directory")


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_undo_does_not_run_beside_another_run(tmp_path, out):
    with Sorter(out, "copy", LABELS) as sorter, Sorter(out, "copy", LABELS):
        sorter.place(make(tmp_path / "a.jpg"), 0)
        with pytest.raises(UsageError, match="being sorted by another run"):
            undo(out)
    assert undo(out) == Undone(1, 0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_run_that_begins_beside_an_undo_waits_and_writes_into_the_journal_that_is_left(tmp_path, out):
    stuck, free = make(tmp_path / "in" / "a.jpg"), make(tmp_path / "in" / "b.jpg")
    sort(out, "copy", stuck)
    make(out / "cat" / "a.jpg", b"edited")
    runs = []

    def begin_run(*_):
        runs.append(start_sort(out, "copy", list_of(tmp_path / "names.json", [free])))
        time.sleep(0.5)
        assert runs[0].poll() is None

    assert undo(out, begin_run) == Undone(0, 0, 1)
    assert finish(runs[0]) == (0, "")
    assert [line["from"] for line in lines_of(out) if "from" in line] == [stuck, free]


def test_nothing_to_undo_is_told(tmp_path, out):
    for folder in (tmp_path, out):
        with pytest.raises(DataError, match=f"nothing to undo in {folder}"):
            undo(folder)
    with Sorter(out, "copy", LABELS):
        pass
    assert undo(out) == Undone(0, 0, 0)
    assert not out.exists()


# --- the journal


def test_each_line_is_there_before_the_thing_is_done(tmp_path, out, monkeypatch):
    seen = []
    for name in ("copy_new", "link_new", "move_new"):
        monkeypatch.setattr(placing, name, lambda *arguments: seen.append(lines_of(out)[-1]))
    sources = {mode: make(tmp_path / f"{mode}.jpg") for mode in MODES}
    for mode, source in sources.items():
        sort(out, mode, source)
    assert seen == [
        {"mode": "copy", "from": sources["copy"], "to": "cat/copy.jpg", "size": len(sources["copy"]),
         "mtime_ns": 10**18 + 8},
        {"mode": "link", "from": sources["link"], "to": "cat/link.jpg"},
        {"mode": "move", "from": sources["move"], "to": "cat/move.jpg"},
    ]  # fmt: skip
    assert lines_of(out)[:3] == [{"visiontool_sort": 1}, {"made": "."}, {"made": "cat"}]
    assert undo(out) == Undone(0, 3, 0)


@all_modes
def test_a_torn_line_is_passed_over_and_the_next_run_goes_on(tmp_path, out, mode):
    sources = [make(tmp_path / "in" / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    before = tree(tmp_path)
    sort(out, mode, sources[0])
    with open(out / NAME, "ab") as file:
        file.write(b'{"mode": "move", "from": "/x", "to": "ca')
    sort(out, mode, *sources)
    with open(out / NAME, "ab") as file:
        file.write(b'{"mode": "mo')
    places = sort(out, mode, *sources)
    assert places == [str(out / "cat" / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    assert undo(out) == Undone(3, 0, 0)
    assert tree(tmp_path) == before


def test_a_torn_header_is_written_again(tmp_path, out):
    source = make(tmp_path / "a.jpg")
    out.mkdir()
    (out / NAME).write_bytes(b'{"visiontool_sort')
    sort(out, "copy", source)
    assert undo(out) == Undone(1, 0, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"precious", "is not the journal"),
        (b"precious\n", "is not the journal"),
        (b"[1]\n", "is not the journal"),
        (b'{"visiontool_sort": 2}\n', "another version of visiontool: schema 2"),
    ],
)
def test_a_file_that_is_no_journal_of_ours_is_not_touched(tmp_path, out, content, words):
    source = make(tmp_path / "a.jpg")
    out.mkdir()
    (out / NAME).write_bytes(content)
    with pytest.raises(DataError, match=words):
        sort(out, "move", source)
    with pytest.raises(DataError, match=words):
        undo(out)
    assert list(tree(out, journal=True)) == [str(out / NAME)]
    assert (out / NAME).read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        {"mode": "move", "from": "/tmp/x", "to": "../in/a.jpg"},
        {"mode": "move", "from": "/tmp/x", "to": "/etc/passwd"},
        {"mode": "move", "from": "/tmp/x", "to": "a.jpg"},
        {"mode": "move", "from": "relative", "to": "cat/a.jpg"},
        {"mode": "move", "from": "/tmp/\0", "to": "cat/a.jpg"},
        {"mode": "move", "from": 3, "to": "cat/a.jpg"},
        {"mode": "move", "from_b64": "?", "to": "cat/a.jpg"},
        {"mode": "burn", "from": "/tmp/x", "to": "cat/a.jpg"},
        {"made": "../in"},
        {"made": "\ud800"},
        [],
        7,
    ],
)
def test_a_line_that_leads_astray_is_passed_over(tmp_path, out, line):
    make(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "empty").mkdir()
    sort(out, "copy", tmp_path / "in" / "a.jpg")
    before = tree(tmp_path / "in")
    with open(out / NAME, "a") as file:
        file.write(json.dumps(line) + "\n" + "[" * 100_000 + "\n")
    assert undo(out) == Undone(1, 0, 0)
    assert tree(tmp_path / "in") == before


@all_modes
def test_a_name_that_another_program_takes_first_is_not_ours(tmp_path, out, mode, monkeypatch):
    source = make(tmp_path / "a.jpg")
    before = tree(tmp_path)
    real = placing.free_name
    late = []

    def overtaken(folder, name):
        free = real(folder, name)
        if not late:
            late.append(make(Path(folder) / free, b"theirs"))
        return free

    monkeypatch.setattr(placing, "free_name", overtaken)
    assert sort(out, mode, source) == [str(out / "cat" / "a-2.jpg")]
    assert undo(out) == Undone(1, 0, 0)
    assert Path(late[0]).read_bytes() == b"theirs"
    shutil.rmtree(out)
    assert tree(tmp_path) == before


@all_modes
def test_another_run_that_places_the_same_picture_first_is_believed(tmp_path, out, mode, monkeypatch):
    source = make(tmp_path / "in" / "a.jpg")
    before = tree(tmp_path)
    real = placing.free_name

    def overtaken(folder, name):
        free = real(folder, name)
        monkeypatch.setattr(placing, "free_name", real)
        if mode != "move":
            assert sort(out, mode, source) == [str(out / "cat" / "a.jpg")]
        return free

    def moved_first(*arguments):
        monkeypatch.setattr(placing, "move_new", real_move)
        assert sort(out, mode, source) == [str(out / "cat" / "a.jpg")]
        return real_move(*arguments)

    real_move = placing.move_new
    monkeypatch.setattr(placing, "free_name", overtaken)
    monkeypatch.setattr(placing, "move_new", moved_first)
    assert sort(out, mode, source) == [str(out / "cat" / "a.jpg")]
    assert len(list((out / "cat").iterdir())) == 1
    undone, left = left_by(out)
    assert (undone.put_back, left) == (1, {})
    assert tree(tmp_path) == before


def test_offsets_are_found_among_any_number_at_few_bytes_each():
    def key(text):  # Python's own hash of the text is another in each process
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)

    offsets, numbers = Offsets(), range(1, 100_001)
    for number in numbers:
        offsets.add(key(f"key {number}"), number)
    assert all(number in offsets.candidates(key(f"key {number}")) for number in numbers)
    assert sum(len(offsets.candidates(key(f"other {number}"))) for number in numbers) < 3000
    assert len(offsets._slots) * 8 <= 13 * len(numbers)
    for number in (5, 3, 9):
        offsets.add(-1, 10**12 + number)
    assert offsets.candidates(-1)[:3] == [10**12 + 9, 10**12 + 5, 10**12 + 3]


# --- the folder cannot be used


@all_modes
def test_a_folder_that_is_a_file_is_told(tmp_path, mode):
    make(tmp_path / "file")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UsageError, match="is a file"), Sorter(folder, mode, LABELS):
            pass


def test_a_mode_that_does_not_exist_is_told(out):
    with pytest.raises(UsageError, match="'burn' is none of copy, link, move"):
        Sorter(out, "burn", LABELS)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path, out):
    source = make(tmp_path / "a.jpg")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SortError, match="cannot be written: Permission denied"):
            sort(out, "copy", source)
    finally:
        tmp_path.chmod(0o700)
    out.mkdir()
    sort(out, "copy", source)
    out.chmod(0o500)
    try:
        with pytest.raises(SortError, match="cannot be written: Permission denied"):
            sort(out, "copy", make(tmp_path / "b.jpg"), class_id=1)
    finally:
        out.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
@all_modes
def test_a_folder_that_vanishes_stops_the_run(tmp_path, out, mode):
    sources = [make(tmp_path / "in" / name) for name in ("a.jpg", "b.jpg")]
    with Sorter(out, mode, LABELS) as sorter:
        out.rename(tmp_path / "elsewhere")
        with pytest.raises(SortError, match="cannot be written: No such file"):
            sorter.place(sources[0], 0)
    assert all(map(os.path.exists, sources))


def test_a_file_in_the_way_of_a_class_folder_is_told_and_kept(tmp_path, out):
    make(out / "cat", b"precious")
    with pytest.raises(SortError, match="is a file, where a folder"):
        sort(out, "copy", make(tmp_path / "a.jpg"))
    assert (out / "cat").read_bytes() == b"precious"


@pytest.mark.parametrize("on_windows", [False, True])
def test_links_that_are_refused_are_told_with_a_way_out(tmp_path, out, monkeypatch, on_windows):
    def refusing(*_):
        error = OSError(errno.EINVAL if on_windows else errno.EPERM, "A required privilege is not held by the client")
        if on_windows:
            error.winerror = 1314
        raise error

    monkeypatch.setattr(os, "symlink", refusing)
    with pytest.raises(SortError, match="no links can be made in .*--mode copy"):
        sort(out, "link", make(tmp_path / "a.jpg"))


# --- processes: a full disk, two runs at once, SIGKILL

SORT = """
import json, resource, signal, sys
from pathlib import Path
from visiontool.errors import PictureError
from visiontool.sort import Sorter, SortError, undo
out, mode, names, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
try:
    with Sorter(Path(out), mode, ["0", "1", "2"]) as sorter:
        print("ready", flush=True)
        for name in json.loads(Path(names).read_text()):
            try:
                sorter.place(name, sum(name.encode()) % 3)
            except PictureError as error:
                print(name, error, file=sys.stderr)
except SortError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


def start_sort(out, mode, names, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", SORT, str(out), mode, str(names), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )


def finish(process):
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def list_of(path, names):
    path.write_text(json.dumps([str(name) for name in names]))
    return path


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs resource limits")
@all_modes
def test_a_journal_that_cannot_grow_stops_the_run_and_the_next_one_goes_on(tmp_path, out, mode):
    sources = [make(tmp_path / "in" / f"{number}.jpg") for number in range(30)]
    names = list_of(tmp_path / "names.json", sources)
    before = tree(tmp_path / "in")
    code, err = finish(start_sort(out, mode, names, limit=1500))
    assert code == 1
    assert "the disk is full" in err
    assert (out / NAME).stat().st_size == 1500
    assert 0 < sum(value != "folder" for value in tree(out).values()) < 30
    assert finish(start_sort(out, mode, names)) == (0, "")
    assert sum(value != "folder" for value in tree(out).values()) == 30
    assert undo(out) == Undone(30, 0, 0)
    assert tree(tmp_path / "in") == before


FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
from visiontool.sort.journal import NAME
from visiontool.sort import Sorter, SortError, undo
top, mode = Path(sys.argv[1]), sys.argv[2]
disk, sources = top / "disk", sorted((top / "in").iterdir())
os.mkdir(disk)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], check=True)
def sort():
    with Sorter(disk / "out", mode, ["cat"]) as sorter:
        for source in sources:
            sorter.place(str(source), 0)
try:
    sort()
    sys.exit("the disk did not fill")
except SortError as error:
    assert "the disk is full (No space left on device)" in str(error), error
placed = [path for path in (disk / "out" / "cat").iterdir()]
assert 2 < len(placed) < len(sources)
assert [path for path in (disk / "out").iterdir() if path.name not in (NAME, "cat")] == []
assert all(path.read_bytes() == path.name.encode() * 5000 for path in placed)
assert len(placed) + len(list((top / "in").iterdir())) == len(sources) * (1 if mode == "move" else 2) - (
    0 if mode == "move" else len(sources) - len(placed))
subprocess.run(["mount", "-o", "remount,size=2M", disk], check=True)
sort()
assert len(list((disk / "out" / "cat").iterdir())) == len(sources)
print(undo(disk / "out").put_back, os.listdir(disk))
"""
private_mounts = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount():
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    probe = ["sh", "-c", "mount -t tmpfs tmpfs /tmp"]
    return subprocess.run([*private_mounts, *probe], capture_output=True).returncode == 0


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_a_full_disk_leaves_everything_complete_and_the_run_goes_on_with_more_room(tmp_path, mode):
    if not can_mount():
        pytest.skip("needs a mount of its own")
    for number in range(20):
        name = f"{number:02}.jpg"
        make(tmp_path / "in" / name, name.encode() * 5000)
    before = tree(tmp_path / "in")
    ran = subprocess.run(
        [*private_mounts, sys.executable, "-c", FULL_DISK, tmp_path, mode], capture_output=True, text=True, cwd=ROOT
    )
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "20 []\n")
    assert tree(tmp_path / "in") == before


@all_modes
def test_two_runs_at_once_overwrite_nothing_of_each_other(tmp_path, out, mode):
    sources = [[make(tmp_path / "in" / side / f"{number % 7}" / f"{number % 5}-{number}.jpg"[2 * (number % 2):])
                for number in range(150)] for side in "ab"]  # fmt: skip
    before = tree(tmp_path / "in")
    contents = Counter(value[0] for value in before.values() if value != "folder")
    lists = [list_of(tmp_path / f"{number}.json", paths) for number, paths in enumerate(sources)]
    runs = [start_sort(out, mode, names) for names in lists]
    assert [finish(run) for run in runs] == [(0, ""), (0, "")]
    assert Counter(Path(path).read_bytes() for path, what in tree(out).items() if what != "folder") == contents
    assert left_by(out) == (Undone(300, 0, 0), {})
    assert tree(tmp_path / "in") == before
    assert not out.exists()


@all_modes
def test_two_runs_at_once_over_the_same_pictures_lose_none(tmp_path, out, mode):
    sources = [make(tmp_path / "in" / f"{number}.jpg") for number in range(200)]
    names = list_of(tmp_path / "names.json", sources)
    before = tree(tmp_path / "in")
    runs = [start_sort(out, mode, names) for _ in range(2)]
    for run in runs:
        code, err = finish(run)
        assert code == 0
        # What the other run moved between two looks.
        assert all("is no longer there" in line or "No such file" in line for line in err.splitlines())
    assert finish(start_sort(out, mode, names)) == (0, "")
    placed = {Path(path).read_bytes() for path, what in tree(out).items() if what != "folder"}
    assert placed == {value[0] for value in before.values()}
    undone, left = left_by(out)
    assert (undone.left, left) == (0, {})
    assert tree(tmp_path / "in") == before
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@all_modes
def test_a_run_that_is_killed_and_repeated_ends_like_one_that_was_not(tmp_path, mode):
    def fresh():
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        folder = tmp_path / "work" / "in"
        return [make(folder / str(n // 20) / f"img{n % 20}.jpg", b"%d " % n * n) for n in range(300)]

    names = list_of(tmp_path / "names.json", fresh())
    out = tmp_path / "work" / "out"
    original = tree(tmp_path / "work")
    process = start_sort(out, mode, names)
    process.stdout.readline()
    begin = time.monotonic()
    assert finish(process) == (0, "")
    takes, whole = time.monotonic() - begin, tree(tmp_path / "work")
    chance, kills = random.Random(mode), 0
    fresh()
    for _ in range(100):
        process = start_sort(out, mode, names)
        process.stdout.readline()
        time.sleep(chance.random() * takes * 0.5)
        process.kill()
        process.communicate()
        if tree(tmp_path / "work") != whole:
            kills += 1
        else:
            fresh()
        if kills >= 5 or chance.random() < 0.3:
            assert finish(start_sort(out, mode, names)) == (0, "")
            assert tree(tmp_path / "work") == whole
            if kills >= 5:
                break
            fresh()
    assert kills >= 5
    undone, left = left_by(out)
    assert (undone.put_back, left) == (300, {})
    assert tree(tmp_path / "work") == original


KILL_EVERYWHERE = """
import errno, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_sort import make, tree, NAME
from visiontool.sort import placing
from visiontool.sort import Sorter, undo

mode, action, top, far, hard_links = sys.argv[1:]
top, far = Path(top), Path(far)
out = top / "out"
if hard_links == "no":
    def refusing(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")
    os.link = refusing
names = [b"x/a.jpg", b"y/a.jpg", b"y/b\\xff\\n.jpg", b"link.jpg", b"bad.jpg"]
paths = [os.fsdecode(os.path.join(os.fsencode(far), name)) for name in names]

def fresh():
    for folder in (top, far):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for path in paths:
        if path.endswith("link.jpg"):
            make(far / "real.jpg")
            os.symlink("real.jpg", path)
        else:
            make(path)

def look():
    return tree(top) | tree(far)

def sort():
    with Sorter(out, mode, ["cat"]) as sorter:
        for path in paths:
            sorter.place(path, None if path.endswith("bad.jpg") else 0)

def is_killed(work, at):
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event.startswith(("os.", "shutil.", "fcntl.", "half")) or event == "open":
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
    real = shutil.copyfileobj
    def in_halves(read, written, length=0):
        written.write(read.read(5))
        written.flush()
        sys.audit("half")
        real(read, written)
    shutil.copyfileobj = in_halves
    try:
        sys.addaudithook(hook)
        work()
    except BaseException:
        import traceback
        traceback.print_exc()
    os._exit(0)

def is_complete():
    # Whatever has a real name is whole, and every content is somewhere.
    files = {path: value[0] for path, value in look().items() if isinstance(value, tuple)}
    files = {path: value for path, value in files.items() if value and not Path(path).name.startswith(".visiontool-")}
    return set(files.values()) == contents

fresh()
original = look()
contents = {value[0] for value in original.values() if isinstance(value, tuple)}
sort()
whole = look()
kills = 0
while True:
    fresh()
    if action == "undo":
        sort()
    if not is_killed(sort if action == "sort" else lambda: undo(out), kills + 1):
        break
    kills += 1
    assert is_complete(), (kills, look())
    if action == "sort":
        sort()
        assert look() == whole, (kills, look(), whole)
    if (out / NAME).exists():
        undone = undo(out)
        if undone.left and hard_links == "no":  # an empty file keeps the name until the picture takes it
            empty = [path for path in paths if os.path.isfile(path) and os.path.getsize(path) == 0]
            assert action == "undo" and len(empty) == undone.left == 1
            os.unlink(empty[0])
            undone = undo(out)
        assert undone.left == 0 and undone.put_back <= 5, (kills, undone)
    if out.exists():  # killed before the journal said that it was made, or after the journal was gone
        out.rmdir()
    assert look() == original, (kills, look(), original)
assert look() == (whole if action == "sort" else original)
print(kills)
"""


@pytest.mark.slow
@linux_only
@pytest.mark.parametrize("action", ["sort", "undo"])
@pytest.mark.parametrize("mode", [*MODES, "move across", "move without hard links", "copy without hard links"])
def test_a_kill_before_any_step_loses_nothing(tmp_path, mode, action, request):
    mode, _, how = mode.partition(" ")
    sources = request.getfixturevalue("far") if how == "across" else tmp_path / "in"
    hard_links = "no" if how == "without hard links" else "yes"
    ran = subprocess.run(
        [sys.executable, "-c", KILL_EVERYWHERE, mode, action, tmp_path / "top", sources, hard_links],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert int(ran.stdout) >= 10


def test_a_move_to_another_file_system_and_back_keeps_everything(tmp_path, far, monkeypatch):
    source = make(tmp_path / "in" / "a.jpg")
    before = tree(tmp_path)
    real, confirmed = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: confirmed.append(os.path.exists(source)) or real(handle))
    (place,) = sort(far, "move", source)
    assert confirmed == [True, True]  # the copy and its folder, before the source goes
    assert tree(far)[place] == before[source]
    assert not os.path.exists(source)
    shutil.rmtree(tmp_path / "in")
    assert undo(far) == Undone(1, 0, 0)
    assert tree(tmp_path) == before


def test_a_class_folder_on_another_file_system_is_told(tmp_path, out, monkeypatch):
    def elsewhere(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", elsewhere)
    with pytest.raises(PictureError, match="cannot be copied: Invalid cross-device link"):
        sort(out, "copy", make(tmp_path / "a.jpg"))
    assert list(tree(out)) == [str(out / "cat")]


def test_journals_are_closed_when_they_are_not_ours(out):
    out.mkdir()
    (out / NAME).write_bytes(b"precious\n")
    with pytest.raises(DataError):
        Journal(str(out))

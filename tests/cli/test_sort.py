"""Sorting pictures into class folders, and back: nothing is overwritten or lost, whenever a run is killed."""

import errno
import json
import os
import random
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest

from visiontool.cli.output import sort as sorting
from visiontool.cli.output.sort import ERROR, JOURNAL, UNKNOWN, Sorting, class_folders
from visiontool.errors import UsageError, VisiontoolError

MODES = ["copy", "link", "move"]
LABELS = ["cat", "dog"]
all_modes = pytest.mark.parametrize("mode", MODES)


# --- names of folders


@pytest.mark.parametrize(
    ("labels", "folders"),
    [
        (
            ["cat", "crane (bird)", "Große Äpfel", "猫", "e.g", "-x"],
            ["cat", "crane (bird)", "Große Äpfel", "猫", "e.g", "-x"],
        ),
        (["", "..", "../../etc", "C:\\x", " .hidden. "], ["_", "_ (2)", "_.._etc", "C__x", "hidden"]),
        (["a\nb\x00\x7f\x9b", "\u202egpj", "nul", "Com1.jpg"], ["a_b___", "_gpj", "_nul", "_Com1.jpg"]),
        (["x" * 300, "x" * 301, "é" * 200], ["x" * 255, "x" * 251 + " (2)", "é" * 127]),
        (["_error", "_UNKNOWN"], ["_error (2)", "_UNKNOWN (2)"]),
        (["a/b", "A_B", "a:b", "\xe9", "e\u0301"], ["a_b", "A_B (2)", "a_b (3)", "\xe9", "\xe9 (2)"]),
        (["straße", "STRASSE", "a", "a (2)", "A"], ["straße", "STRASSE (2)", "a", "a (2)", "A (3)"]),
    ],
)
def test_a_label_is_its_folder_or_one_that_is_safe(labels, folders):
    assert class_folders(labels) == tuple(folders)


def test_any_labels_give_safe_folders_of_their_own():
    draw = random.Random(0)
    characters = "aAbB._ /\\:*\x00\n\x7fé\u0301ßſKknulcom1()2\ud800\U0001f600ı"
    for _ in range(300):
        labels = ["".join(draw.choices(characters, k=draw.randrange(9))) for _ in range(draw.randrange(12))]
        labels = list(dict.fromkeys([*labels, *draw.sample(["_error", "_unknown", "NUL"], 2)]))
        names = class_folders(labels)
        folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
        assert len({*folded, UNKNOWN, ERROR}) == len(names) + 2 == len(labels) + 2
        for name in names:
            assert 1 <= len(name.encode()) <= 255
            assert Path("out", name).parent == Path("out")
            assert not set(name) & set('<>:"/\\|?*')
            assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
            assert name == name.strip(". ")
            assert name.partition(".")[0].strip().lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")


# --- placing and taking back


def make(path, content=None):
    """A file with its own content, an old time and permissions that are not the default."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path) if content is None else content)
    os.utime(path, ns=(10**18 + 1, 10**18 + len(path.name)))
    path.chmod(0o640)
    return path


def tree(folder):
    """Everything below `folder`: what a link says, or content, time and permissions of a file."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            files[path.relative_to(folder)] = os.readlink(path)
        elif path.is_file() and path.name != JOURNAL:
            files[path.relative_to(folder)] = (path.read_bytes(), path.stat().st_mtime_ns, oct(path.stat().st_mode))
    return files


def sort(folder, mode, *paths, class_id=0, unknown=False):
    """The names in the folder afterwards, and what could not be placed."""
    with Sorting(folder, mode, LABELS) as sorting_:
        for path in paths:
            sorting_.place(str(path), class_id, unknown)
    return {str(name) for name in tree(folder)}, sorting_._examples


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def undo(run, out):
    """Runs --undo: the exit code and the lines on stderr."""

    def undo_():
        ran = run("predict", "--sort-into", out, "--undo")
        return ran.code, ran.err.splitlines()

    return undo_


@pytest.fixture
def far(tmp_path):
    """A folder on another file system than `tmp_path`."""
    path = Path("/dev/shm", f"visiontool-{os.getpid()}")
    if not path.parent.is_dir() or path.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@all_modes
def test_pictures_get_places_and_come_back_as_they_were(tmp_path, out, undo, mode):
    sources = [make(tmp_path / "in" / folder / "a.tar.gz") for folder in ("x", "y", "z")]
    make(out / "cat" / "a.tar.gz", b"precious")  # nothing is overwritten
    before, inside = tree(tmp_path), tree(tmp_path / "in")
    names = {"cat/a.tar.gz", "cat/a.tar-2.gz", "cat/a.tar-3.gz", "cat/a.tar-4.gz"}
    for _ in range(2):  # a second run finds everything in place
        assert sort(out, mode, *sources, sources[0]) == (names, [])
    assert (out / "cat" / "a.tar.gz").read_bytes() == b"precious"
    assert (out / "cat" / "a.tar-2.gz").read_bytes() == os.fsencode(sources[0])
    assert tree(tmp_path / "in") == ({} if mode == "move" else inside)
    if mode == "link":
        assert os.readlink(out / "cat" / "a.tar-2.gz") == str(sources[0])
    else:
        assert tree(out)[Path("cat/a.tar-2.gz")] == inside[Path("x/a.tar.gz")]
    assert undo() == (0, ["Put back: 3. Left: 0."])
    assert tree(tmp_path) == before
    assert sorted(os.listdir(out)) == ["cat"]


@all_modes
def test_unknown_and_unreadable_pictures_have_folders_and_all_goes_again(tmp_path, out, undo, mode):
    sources = [make(tmp_path / "in" / name) for name in ("a.jpg", "b.jpg")]
    (tmp_path / "folder").mkdir()
    assert sort(out, mode, sources[0], tmp_path / "folder", class_id=None) == ({f"{ERROR}/a.jpg"}, [])
    assert sort(out, mode, sources[1], unknown=True) == ({f"{ERROR}/a.jpg", f"{UNKNOWN}/b.jpg"}, [])
    _, (unplaced,) = sort(out, mode, tmp_path / "gone.jpg")
    assert unplaced.endswith("gone.jpg: is no longer there")
    out.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(out)
    assert undo()[0] == 0
    assert not out.exists()
    assert undo()[0] == 3


def test_what_is_in_its_folder_stays_there_and_a_changed_picture_is_placed_again(tmp_path, out):
    make(out / "cat" / "b.jpg")
    assert sort(out, "move", out / "cat" / "b.jpg") == ({"cat/b.jpg"}, [])
    source = make(tmp_path / "a.jpg", b"first")
    sort(out, "copy", source)
    make(source, b"changed")
    for _ in range(2):
        assert sort(out, "copy", source)[0] == {"cat/b.jpg", "cat/a.jpg", "cat/a-2.jpg"}
    assert (out / "cat" / "a.jpg").read_bytes() == b"first"
    (tmp_path / "link.jpg").symlink_to(source)
    assert "is a link" in sort(out, "move", tmp_path / "link.jpg")[1][0]


def test_undo_leaves_what_was_changed_and_takes_the_rest_back_later(tmp_path, out, undo):
    sources = {name: make(tmp_path / "in" / name) for name in ("edited", "changed", "gone", "missing", "touched")}
    sort(out, "copy", *sources.values())
    make(out / "cat" / "edited", b"edited")
    make(sources["changed"], b"changed")
    sources["gone"].unlink()
    (out / "cat" / "missing").unlink()
    os.utime(sources["touched"])
    before = tree(tmp_path / "in")
    for put_back in (1, 0):
        code, lines = undo()
        assert code == 7
        assert {*lines} == {
            *(
                f"Left: {out / 'cat' / name}: differs from {sources[name]}, which was changed or is gone"
                for name in ("edited", "changed", "gone")
            ),
            f"Put back: {put_back}. Left: 3.",
        }
    assert {path.name for path in (out / "cat").iterdir()} == {"edited", "changed", "gone"}
    assert tree(tmp_path / "in") == before
    make(sources["edited"], b"edited")
    assert undo()[1][-1] == "Put back: 1. Left: 2."


@pytest.mark.parametrize("mode", ["link", "move"])
def test_undo_overwrites_nothing(tmp_path, out, undo, mode):
    source = make(tmp_path / "in" / "a.jpg")
    sort(out, mode, source)
    place = out / "cat" / "a.jpg"
    if mode == "link":
        place.unlink()
        make(place, b"new")
    else:
        make(source, b"new")
    reason = "is not the link that was made" if mode == "link" else f"cannot go back: {source} is there now"
    assert undo() == (7, [f"Left: {place}: {reason}", "Put back: 0. Left: 1."])
    assert (place if mode == "link" else source).read_bytes() == b"new"
    if mode == "move":
        shutil.rmtree(tmp_path / "in")
        assert undo()[0] == 0
        assert source.read_bytes() == os.fsencode(source)


def test_one_run_at_a_time_sorts_into_a_folder(out):
    with Sorting(out, "copy", LABELS), pytest.raises(UsageError, match="another run sorts into"):
        sort(out, "copy")


def test_the_folder_that_vanishes_or_is_full_stops_the_run(tmp_path, out, monkeypatch):
    source = make(tmp_path / "a.jpg")
    with Sorting(out, "move", LABELS) as sorting_:
        shutil.rmtree(out)
        with pytest.raises(VisiontoolError, match="cannot be written"):
            sorting_.place(str(source), 0, False)

    def full(source, partial):
        Path(partial).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(VisiontoolError, match=r"No space left on device\nWhat has a place is complete"):
        sort(out, "copy", source)
    assert list(tree(tmp_path)) == [Path("a.jpg")]


@all_modes
def test_a_run_that_was_killed_left_a_line_too_many_or_a_torn_one(tmp_path, out, undo, monkeypatch, mode):
    name = "\udcff\n.jpg" if sys.platform == "linux" else "b.jpg"  # any bytes
    first, second = make(tmp_path / "in" / "a.jpg"), make(tmp_path / "in" / name)
    before = tree(tmp_path / "in")
    with monkeypatch.context() as killed:  # before the thing is done
        for owner, deed in ((sorting, "_copy"), (sorting, "_move"), (Path, "symlink_to"), (sorting, "_key")):
            killed.setattr(owner, deed, lambda *arguments: None)
        sort(out, mode, first)
    entry = {"mode": mode, "from": str(first), "to": "cat/a.jpg"}
    assert (out / JOURNAL).read_text() == json.dumps(entry) + "\n"
    with open(out / JOURNAL, "ab") as journal:
        journal.write(b'{"mode": "move", "from": "/pho')
    assert sort(out, mode, first, second)[0] == {"cat/a.jpg", f"cat/{name}"}
    assert undo() == (0, ["Put back: 2. Left: 0."])
    assert tree(tmp_path / "in") == before


def test_a_move_to_another_file_system_and_back(out, far, undo):
    source = make(far / "a.jpg")
    before = tree(far)
    assert sort(out, "move", source) == ({"cat/a.jpg"}, [])
    assert tree(far) == {}
    assert undo()[0] == 0
    assert tree(far) == before

import inspect
import os
import sys
from itertools import islice
from pathlib import Path

import pytest

from visiontool import find
from visiontool.find import find_images


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


def test_paths_keep_the_order_given(folder):
    make("b.png", "a.png", "pictures/c.png")
    assert found("b.png", "pictures", "a.png") == ["b.png", "pictures/c.png", "a.png"]


def test_a_named_file_counts_whatever_its_name_and_also_when_it_is_missing(folder):
    make("notes.txt", ".hidden.png", "Thumbs.db")
    names = ["notes.txt", ".hidden.png", "Thumbs.db", "missing.png", "no/such/folder/", ""]
    assert found(*names) == names


def test_a_folder_gives_only_pictures(folder):
    make(
        "d/a.JPG",
        "d/b.jpeg",
        "d/c.png",
        "d/notes.txt",
        "d/Thumbs.db",
        "d/noextension",
        "d/jpg",
        "d/e.tar.gz",
        "d/f.webp",
    )
    assert found("d") == ["d/a.JPG", "d/b.jpeg", "d/c.png", "d/f.webp"]


def test_a_folder_is_in_natural_order(folder):
    make(
        "d/img10.png", "d/img2.png", "d/img.png", "d/IMG1.png", "d/b.png", "d/A.png", "d/2.png", "d/10.png", "d/010.png"
    )
    assert found("d") == [
        *("d/2.png", "d/010.png", "d/10.png", "d/A.png", "d/b.png"),
        *("d/img.png", "d/IMG1.png", "d/img2.png", "d/img10.png"),
    ]


def test_the_files_of_a_folder_come_before_those_of_its_folders(folder):
    make("d/z.png", "d/a10/1.png", "d/a2/deep/3.png", "d/a2/2.png")
    assert found("d") == ["d/z.png", "d/a2/2.png", "d/a2/deep/3.png", "d/a10/1.png"]
    assert found("d", recursive=False) == ["d/z.png"]


def test_hidden_names_and_junk_are_left_out_of_a_folder(folder):
    make(
        "d/a.png",
        "d/.b.png",
        "d/._a.png",
        "d/.cache/c.png",
        "d/__MACOSX/a.png",
        "d/@eaDir/a.png",
        "d/$RECYCLE.BIN/e.png",
    )
    assert found("d") == ["d/a.png"]


def test_a_hidden_folder_that_is_named_is_read(folder):
    make(".cache/a.png", "__MACOSX/b.png")
    assert found(".cache", "__MACOSX") == [".cache/a.png", "__MACOSX/b.png"]


def test_the_folder_we_are_in_can_be_named(folder):
    make("a.png", "d/b.png")
    assert found(".") == ["./a.png", "./d/b.png"]
    assert found(str(folder)) == [str(folder / "a.png"), str(folder / "d/b.png")]


def test_a_folder_with_the_name_of_a_picture_is_a_folder(folder):
    make("d/album.jpg/a.png")
    assert found("d") == ["d/album.jpg/a.png"]


def test_links_to_folders_are_followed_only_when_named(folder):
    make("elsewhere/a.png", "d/b.png")
    os.symlink("../elsewhere", "d/link")
    os.symlink("../elsewhere", "d/album.jpg")
    os.symlink(".", "d/loop")
    assert found("d") == ["d/b.png"]
    assert found("d/link") == ["d/link/a.png"]


def test_broken_links_to_pictures_are_left_to_the_one_who_opens_them(folder):
    make("d/a.png")
    os.symlink("none.png", "d/b.png")
    os.symlink("c.png", "d/c.png")
    assert found("d") == ["d/a.png", "d/b.png", "d/c.png"]


def test_each_real_file_is_given_once(folder):
    make("d/a.png", "e/b.png")
    os.symlink("../d/a.png", "e/a-again.png")
    assert found("d/a.png", "d", "./d/../d/a.png", str(folder / "d/a.png"), "e", "d/*.png") == ["d/a.png", "e/b.png"]


def test_a_hard_link_is_a_file_of_its_own(folder):
    make("d/a.png")
    os.link("d/a.png", "d/b.png")
    assert found("d") == ["d/a.png", "d/b.png"]


def test_what_exists_under_a_name_is_meant_before_a_glob(folder):
    make("a1.png", "a[1].png", "*.png", "[x]/b.png", "x/c.png", "?.png")
    assert found("a[1].png") == ["a[1].png"]
    assert found("*.png") == ["*.png"]
    assert found("[x]") == ["[x]/b.png"]


def test_globs_give_files_and_folders_as_if_typed(folder):
    make("d/a10.png", "d/a2.png", "d/a.txt", "d/b/c.png", "d/b/notes.txt", "d/.hidden.png", "e/a1.png")
    assert found("d/a*.png") == ["d/a2.png", "d/a10.png"]
    assert found("d/*") == ["d/a.txt", "d/a2.png", "d/a10.png", "d/b/c.png"]
    assert found("?/a[0-9].png") == ["d/a2.png", "e/a1.png"]
    assert found("*/b/c.png") == ["d/b/c.png"]
    assert found("d/.h*") == ["d/.hidden.png"]
    assert found("d/../e/*.png") == ["d/../e/a1.png"]
    assert found(f"{folder}/e/*") == [f"{folder}/e/a1.png"]


def test_two_stars_go_through_all_folders(folder):
    make("a.png", "d/b2.png", "d/b10.png", "d/deep/c.png", "d/.git/e.png", "d/__MACOSX/f.png", "d/deep/notes.txt")
    os.symlink("..", "d/loop")
    assert found("**/*.png") == ["a.png", "d/b2.png", "d/b10.png", "d/deep/c.png"]
    assert found("d/**/c.png") == ["d/deep/c.png"]
    assert found("d/**") == ["d/b2.png", "d/b10.png", "d/deep/c.png"]
    assert found("d/**", recursive=False) == ["d/b2.png", "d/b10.png", "d/deep/c.png"]
    assert found("**") == ["./a.png", "./d/b2.png", "./d/b10.png", "./d/deep/c.png"]


def test_a_glob_without_matches_gives_nothing(folder):
    make("a.txt", "d/a.png")
    assert found("*.png", "none/*.png", "a.txt/*.png", "d/*/x.png", "none/**") == []


def test_home_is_left_to_the_shell(folder):
    assert found("~") == ["~"]


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
    assert found("d/closed/*.png") == ["d/closed"]
    assert found("d/**/*.png") == ["d/a.png", "d/closed", "d/open/c.png"]


def test_folders_are_read_one_at_a_time(folder, monkeypatch):
    make("d/a.png", "d/b.png", "d/e/c.png", "f/g.png")
    read: list[str] = []
    listing = find._listing
    monkeypatch.setattr(find, "_listing", lambda path, **options: read.append(path) or listing(path, **options))
    pictures = find_images(["d", "f"])
    assert read == []
    assert list(islice(pictures, 2)) == ["d/a.png", "d/b.png"]
    assert read == ["d"]
    assert list(pictures) == ["d/e/c.png", "f/g.png"]
    assert read == ["d", "d/e", "f"]


def test_folders_are_not_walked_by_recursion(folder):
    deep = "/".join("d" * 300)
    make(f"{deep}/a.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        assert found("d") == [f"{deep}/a.png"]
        assert found("**/a.png") == [f"{deep}/a.png"]
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="needs names of any bytes")
def test_names_that_are_not_utf8_are_found(folder):
    os.mkdir("d")
    Path(os.fsdecode(b"d/\xff.png")).touch()
    assert found("d") == ["d/\udcff.png"]
    assert found("d/*.png") == ["d/\udcff.png"]

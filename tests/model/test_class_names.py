"""Class names as other tools and people write them."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from visiontool.errors import ModelError
from visiontool.model.class_names import MAX_NAMES_BYTES, from_descriptions, numbered, parse_names, read_class_names

names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "names.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("cat\ndog", ("cat", "dog")),
        ("\ufeffcat\r\ndog\r\n\r\n\n", ("cat", "dog")),
        ("a\u2028b\nc\x0bd\ne\x85f\n", ("a\u2028b", "c\x0bd", "e\x85f")),
        ('\ufeff\n ["cat", "dog"]\n', ("cat", "dog")),
        ('{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ("{'dog': 1, 'cat': 0}", ("cat", "dog")),
        ('{"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0}}', ("cat", "dog")),
        ('{"0": ["c1", "cat"], "1": ["d2", "dog"]}', ("c1 cat", "d2 dog")),
        ("nc: 2\r\nnames: [cat, 'dog''s']  # classes\r\nval: x\r\n", ("cat", "dog's")),
        (
            "# data\npath: ../x\nnames:\n  0: cat\n\n  # more\n  1: dog, Canis # one\nmap:\n  n1: cat\n",
            ("cat", "dog, Canis"),
        ),
        ("names:\n- cat\n- 'it''s a dog'\n- \"caf\\xe9 #1\"\n- no\n", ("cat", "it's a dog", "café #1", "no")),
        ("{0: 'cat', 1: \"dog's\"}", ("cat", "dog's")),
        ("crane\ncat\ncrane\n", ("crane [0]", "cat", "crane [2]")),
        ("n01440764 tench\ncat\n", ("n01440764 tench", "cat")),
    ],
)
def test_each_way_to_write_names_is_read(content, labels, tmp_path):
    assert read_class_names(write(tmp_path, content)) == (labels, None)


@pytest.mark.parametrize(
    ("content", "labels"), [("- cat\n- dog\n", ("cat", "dog")), ("---\n0: cat\n1: dog", ("cat", "dog"))]
)
def test_a_yaml_file_may_have_nothing_but_names(content, labels, tmp_path):
    path = tmp_path / "names.yaml"
    path.write_text(content)
    assert read_class_names(path) == (labels, None)


@pytest.mark.parametrize(
    "content",
    [
        '{"0": ["n01440764", "tench"], "1": ["n02012849", "crane"]}',
        '[["n01440764", "tench"], ["n02012849", "crane"]]',
        '{"label_names": ["n01440764", "n02012849"],'
        ' "label_descriptions": {"n02012849": "crane", "n01440764": "tench, X"}}',
        "n01440764 tench, X\nn02012849: crane\n",
    ],
)
def test_ids_of_wordnet_are_read_too(content, tmp_path):
    assert read_class_names(write(tmp_path, content)) == (("tench", "crane"), ("n01440764", "n02012849"))


def test_labels_from_descriptions_are_told_apart():
    ids = ["n02012849", "n03126707", "n03710637", "n03710721", "n0", "n1"]
    texts = ["crane", "crane", "maillot", "maillot, tank suit", "same, alike", "same, alike"]
    assert from_descriptions(texts, ids) == (
        *("crane (bird)", "crane (machine)", "maillot", "maillot (tank suit)"),
        *("same (alike) [4]", "same (alike) [5]"),
    )
    assert from_descriptions([",", "a,,b", " x , y"]) == (",", "a", "x")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: expected a name, not ''"),
        ("cat\n" + "x" * 10_001, "line 2: expected a name, not 'xxxx"),
        ('["cat", 1]', "expected a JSON list of names"),
        (r'["\ud800"]', "expected a JSON list of names"),
        ('{"0": "cat", "2": "dog"}', "or an object from each number to a name"),
        ('{"cat": 0, "dog": true}', "or from each name to its number"),
        ("names: [cat, dog", "expected 'names:' and a list or numbered names, as in a data.yaml"),
        ("names:\n  - cat\n  - name: dog\n", "as in a data.yaml"),
        ("[" * 100_000, "expected a JSON list of names"),
        (b"\xff\xfec\0a\0t\0", "not UTF-8 text"),
        (b"x\n" * (MAX_NAMES_BYTES // 2) + b"y", "more than 8,388,608 bytes"),
        ("x\n" * 100_001, "100,001 lines; at most 100,000 names"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_file_that_holds_no_names_is_refused(content, words, tmp_path):
    path = write(tmp_path, content)
    with pytest.raises(ModelError) as caught:
        read_class_names(path)
    message = str(caught.value)
    assert message.startswith(f"--class-names {path}: ")
    assert words in message
    assert len(message) < len(str(path)) + 200


@example(["a"] * 3 + ["a [0]", "a [1] [4]", "a [1]", "a [0] [0]"])  # numbers that are there already
@settings(max_examples=25, deadline=None)
@given(names)
def test_any_names_are_read_back_and_numbered_uniquely(labels):
    unique = numbered(labels)
    assert len(set(unique)) == len(labels)
    assert all(new.startswith(old) for new, old in zip(unique, labels, strict=True))
    assert numbered(unique) == unique
    by_index = dict(enumerate(labels))
    for text in (repr(by_index), json.dumps(by_index), json.dumps(labels)):
        assert parse_names(text) == tuple(labels)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{0: cat}", "{0: 'cat'", "{0: 'cat', 2: 'dog'}", "{0: 'cat' 1: 'dog'}", "{0: ''}", "{-1: 'cat'}"),
        *("{0: __import__('os').getcwd()}", "{٠: 'cat'}", r"{0: '\ud800'}", "[[['cat']]]"),
        "{0: '" + "x" * MAX_NAMES_BYTES + "'}",
    ],
    ids=lambda text: text[:20],
)
def test_names_that_are_no_complete_list_are_not_guessed(text):
    assert parse_names(text) is None

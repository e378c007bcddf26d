"""The house rules: rooms import downward only, in the order of docs/design.md, and nothing grows too large."""

import ast
import re

import pytest
from conftest import ROOT

PACKAGE = ROOT / "visiontool"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ORDER = [
    room.removesuffix("/").removesuffix(".py")
    for room in re.findall(r"^\| `(\w+(?:/|\.py))` \|", (ROOT / "docs" / "design.md").read_text("utf-8"), re.MULTILINE)
]


def room_of(module):
    return module.split("/")[0].removesuffix(".py")


def imported(tree):
    """The modules and names of visiontool that are imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def functions(tree):
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_command(function):
    return any(re.search(r"\.(command|group)\b", ast.unparse(decorator)) for decorator in function.decorator_list)


def test_every_room_is_in_the_table():
    assert {room_of(module) for module in MODULES} == {*ORDER, "__init__", "__main__"}


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in ORDER])
def test_a_room_imports_only_what_is_below_it(module):
    names = [
        name for name in imported(ast.parse((PACKAGE / module).read_text("utf-8"))) if name.startswith("visiontool")
    ]
    rooms = {name.split(".")[1] for name in names}
    assert rooms <= {*ORDER[ORDER.index(room_of(module)) :]}


@pytest.mark.parametrize("module", MODULES)
def test_files_functions_and_commands_stay_small(module):
    text = (PACKAGE / module).read_text("utf-8")
    assert len(text.splitlines()) <= 400
    for function in functions(ast.parse(text)):
        if is_command(function):
            start = function.body[0].end_lineno if ast.get_docstring(function) else function.body[0].lineno - 1
            assert function.end_lineno - start <= 25, function.name
        else:
            arguments = function.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            assert len([argument for argument in named if argument.arg not in ("self", "cls")]) <= 10, function.name

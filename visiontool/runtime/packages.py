"""The packages that bring onnxruntime. All have a module of the same name, so two of them break each other."""

from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path

from visiontool.errors import pip

_PREFERRED = "onnxruntime-gpu"  # it runs on the CPU too


def wheels() -> tuple[str, ...]:
    """The installed packages that brought the module onnxruntime, which should be one, with their versions."""
    spec = find_spec("onnxruntime")
    if spec is None:
        return ()
    (package, *_) = map(Path, spec.submodule_search_locations or [])
    main = f"{package.name}/__init__.py"
    found = map(Distribution.at, sorted(package.parent.glob("onnxruntime*.dist-info")))
    return tuple(f"{each.name} {each.version}" for each in found if main in map(str, each.files or ()))


def names() -> list[str]:
    """The same without versions."""
    return [wheel.split()[0] for wheel in wheels()]


def fault() -> str | None:
    """What to do where several are installed; None where one is."""
    if len(installed := names()) < 2:
        return None
    said = f"{' and '.join(wheels())} are installed in one place, each over the other's files. One is enough:"
    return "\n".join((said, pip(f"uninstall -y {' '.join(installed)}"), pip(f"install {_kept(installed)}")))


def repair() -> str:
    """What to do where the module cannot be used."""
    return fault() or f"Install it again: {pip(f'install --force-reinstall --no-deps {_kept(names())}')}"


def _kept(installed: list[str]) -> str:
    return _PREFERRED if _PREFERRED in installed or not installed else installed[0]

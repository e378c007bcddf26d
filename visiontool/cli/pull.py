"""Pulling a network with something to look at: a line before, a line after, and on a terminal a bar."""

from pathlib import Path
from typing import TYPE_CHECKING

from visiontool.cli.progress import Stages
from visiontool.cli.text import say
from visiontool.errors import UsageError

if TYPE_CHECKING:
    from visiontool.hub.cache import Cached

_WORDS = {"download": "Downloading", "convert": "Converting to ONNX", "check": "Comparing with torch"}


def obtain(
    model: str | None,
    *,
    weights: Path | None = None,
    class_names: Path | None = None,
    offline: bool = False,
    quiet: bool = False,
    labels_matter: bool = True,
) -> "str | Path | None":
    """What `Classifier.load` takes for `model`: a network that is not on this machine is pulled first.

    Args:
        labels_matter: says so where nobody named the classes of `weights`.

    Raises:
        ModelError, ConversionError: as `pull.pull`.
        UsageError: `weights` of no network.
    """
    from visiontool.hub import resolve

    if weights is not None:
        if model is None:
            raise UsageError("--weights FILE holds the weights of the network that -m names; name it")
        return pull_shown(
            model, weights=weights, class_names=class_names, offline=offline, quiet=quiet, labels_matter=labels_matter
        ).path
    try:
        return resolve.resolve(model)
    except resolve.ModelNotPulled as error:
        return pull_shown(error.name, offline=offline, quiet=quiet).path


def pull_shown(
    name: str,
    *,
    img_size: int | None = None,
    weights: Path | None = None,
    class_names: Path | None = None,
    offline: bool = False,
    quiet: bool = False,
    labels_matter: bool = True,
) -> "Cached":
    """`pull.pull`, telling on stderr how far it is; nothing where there is nothing to do.

    Raises:
        ModelError, ConversionError: as `pull.pull`.
    """
    from visiontool.pytorch.pull import pull

    with Telling(name, quiet, notes=labels_matter) as telling:
        pulled = pull(
            name,
            img_size=img_size,
            weights=weights,
            class_names=class_names,
            offline=offline,
            progress=telling.update,
        )
    if telling.begun and not quiet:
        say(f"{pulled.name} is ready: {pulled.size_bytes / 1e6:,.1f} MB; from now on without network and torch.")
    return pulled


class Telling(Stages):
    """A line when it begins, and on a terminal a bar for each stage. A context."""

    def __init__(self, name: str, quiet: bool, *, notes: bool = True) -> None:
        super().__init__(_WORDS, in_bytes=("download",), shown=not quiet, notes=notes)
        self.begun = False
        self._name = name
        self._quiet = quiet

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """What `pull` calls."""
        if stage == "wait":
            self._remark(f"Another process is getting {self._name}; waiting for it.")
            return
        if not self.begun:
            self.begun = True
            self._remark(f"{self._name} is not on this machine yet: getting it, once.")
        super().update(stage, done, total, note)

    def _remark(self, text: str) -> None:
        if not self._quiet:
            self.say(text)

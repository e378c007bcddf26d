"""The model of a command: pulled first where it is not on this machine; and with -v what it runs on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiontool._version import __version__
from visiontool.cli.progress import Stages
from visiontool.cli.text import say
from visiontool.errors import UsageError
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.hub.cache import Cached
    from visiontool.inference.classifier import Classifier

_TITLES = {"download": "Downloading", "convert": "Converting to ONNX", "check": "Comparing with torch"}


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
        labels_matter: whether to say so where nobody named the classes of `weights`.
    """
    from visiontool.hub import resolve

    if weights is None:
        try:
            return resolve.resolve(model)
        except resolve.ModelNotPulled as error:
            model = error.name
    elif model is None:
        raise UsageError("--weights FILE holds the weights of the network that -m names; name it")
    return pull(
        model, weights=weights, class_names=class_names, offline=offline, quiet=quiet, labels_matter=labels_matter
    ).path


def pull(
    name: str,
    *,
    img_size: int | None = None,
    weights: Path | None = None,
    class_names: Path | None = None,
    offline: bool = False,
    quiet: bool = False,
    labels_matter: bool = True,
) -> "Cached":
    """`pytorch.pull.pull` with its progress on stderr; nothing there where there is nothing to do."""
    from visiontool.pytorch.pull import pull

    with PullStages(name, quiet, log=labels_matter) as stages:
        how: dict[str, Any] = {"img_size": img_size, "weights": weights, "class_names": class_names}
        pulled = pull(name, **how, offline=offline, progress=stages.update)
    if stages.begun and not quiet:
        say(f"{pulled.name} is ready: {pulled.size_bytes / 1e6:,.1f} MB; from now on without network and torch.")
    return pulled


class PullStages(Stages):
    """A line when a pull begins, and on a terminal a bar for each stage. A context."""

    def __init__(self, name: str, quiet: bool, *, log: bool = True) -> None:
        super().__init__(_TITLES, in_bytes=("download",), enabled=not quiet, log=log)
        self.begun = False
        self._model = name
        self._quiet = quiet

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """What `pull` calls."""
        text = ""
        if stage == "wait":
            text = f"Another process is getting {self._model}; waiting for it."
        elif not self.begun:
            self.begun = True
            text = f"{self._model} is not on this machine yet: getting it, once."
        if text and not self._quiet:
            self.say(text)
        if stage != "wait":
            super().update(stage, done, total, note)


def say_how(classifier: "Classifier", batch_size: int | None) -> None:
    """Says on stderr what a network runs on, which provider has how many of its nodes, and versions."""
    import platform

    import onnxruntime

    from visiontool.runtime import installation

    (most, nodes), *others = (classifier.assignment() or {classifier.provider: 0}).items()  # a graph may be constants
    if others:
        shares = ", ".join(f"{count:,} by {name}" for name, count in others)
        total = nodes + sum(count for _, count in others)
        say(f"Runs on {classifier.device}: {nodes:,} of {plural(total, 'node')} by the provider {most}, {shares}.")
    else:
        say(f"Runs on {classifier.device}: all {plural(nodes, 'node')} by the provider {most}.")
    if classifier.passed_over is not None:
        say(f"Not on the GPU: {classifier.passed_over}")
    if classifier.device.startswith("cuda:"):
        gpu = installation.gpus()[int(classifier.device.partition(":")[2])]
        say(f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, driver {installation.driver_version()}.")
    threads = "as many threads as cores" if classifier.threads == 0 else plural(classifier.threads, "thread")
    each = f", each with {threads}" if classifier.provider == "cpu" else ""
    sessions = plural(classifier.runs_at_once, "run")
    say(f"{sessions} at once{each}; up to {plural(classifier.batch_size(batch_size), 'picture')} in a run.")
    packages = ", ".join(installation.wheels()) or onnxruntime.__version__
    say(f"visiontool {__version__}, {packages}, Python {platform.python_version()}.")

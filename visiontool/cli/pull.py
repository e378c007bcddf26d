"""The model of a command: pulled first where it is not on this machine; and with -v what it runs on."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from visiontool._version import __version__
from visiontool.cli import options
from visiontool.cli.progress import Stages
from visiontool.cli.text import say
from visiontool.files import IN_MEMORY
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.hub.cache import Cached
    from visiontool.inference.classifier import Classifier

_TITLES = {"download": "Downloading", "convert": "Making the model file"}


def obtain(model: str | None, *, weights: Path | None = None, **how: Any) -> Path:
    """The file of `model`: a network that is not on this machine is pulled first, as by `pull`."""
    from visiontool.hub import resolve

    return resolve.obtain(model, weights, lambda name: pull(name, weights=weights, **how).path)


def load_all(
    names: Sequence[str | None], args: SimpleNamespace, *hows: dict[str, Any], are_single: bool = False
) -> "list[Classifier]":
    """Loads models as the options say, each with `hows` of its own; no ensembles where they must be single models.

    The options of `foreign_model` describe what has no manifest.
    """
    from visiontool.inference.classifier import Classifier
    from visiontool.inference.ensemble import SUFFIX, load
    from visiontool.model.scan import scan
    from visiontool.model.spec import MANIFEST_KEY

    given, how = vars(args), {"offline": args.offline, "quiet": args.quiet}
    if given.get("weights") is not None:  # the names are of the network that is made with them; verify has none
        how |= {"weights": args.weights, "class_names": args.class_names}
        given = given | {"class_names": None}
    description, paths = options.description(given), [obtain(name, **how) for name in names]
    foreign = [path for path in paths if description and path not in IN_MEMORY and path.suffix != SUFFIX]
    foreign = [path for path in foreign if MANIFEST_KEY not in scan(path).metadata]
    shared: dict[str, Any] = {"limits": options.limits(given)}
    shared |= {name: given[name] for name in ("device", "provider", "crop_mode", "among") if name in given}
    models = []
    for path, its in zip(paths, hows, strict=True):
        # Where none is foreign, the first refuses the description.
        its = {**shared, **its, "description": description if path in foreign or not foreign else None}
        models.append(model := Classifier(path, **its) if are_single else load(path, **its))
        if model.assumed and not args.quiet:
            who = "nobody said when it was exported" if model.spec.assumed else "neither it nor you said"
            say(f"{path}: {who}, so assumed: {', '.join(model.assumed)}.")
    return models


def pull(name: str, *, quiet: bool = False, labels_matter: bool = True, **how: Any) -> "Cached":
    """`pytorch.pull.pull` with its progress on stderr; nothing there where there is nothing to do.

    Args:
        labels_matter: whether to say so where nobody named the classes of `weights`.
        how: the other arguments of `pytorch.pull.pull`.
    """
    from visiontool.pytorch.pull import pull

    with PullStages(name, quiet, log=labels_matter) as stages:
        pulled = pull(name, **how, progress=stages.update)
        if stages.begun:
            size = f"{pulled.size_bytes / 1e6:,.1f} MB"
            stages.say(f"{pulled.name} is ready: {size}; from now on without network and torch.")
    return pulled


class PullStages(Stages):
    """A line when a pull begins, and on a terminal a bar for each stage. A context."""

    def __init__(self, name: str, quiet: bool, *, log: bool = True) -> None:
        super().__init__(_TITLES, in_bytes=("download",), enabled=not quiet, log=log)
        self.begun = False
        self._model = name

    def update(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        if stage == "wait":
            self.say(f"Another process is getting {self._model}; waiting for it.")
            return
        if not self.begun:
            self.begun = True
            self.say(f"{self._model} is not on this machine yet: getting it, once.")
        super().update(stage, done, total, note)


def say_how(classifier: "Classifier", batch_size: int | None) -> None:
    """Says on stderr what a network runs on, which provider has how many of its nodes, and versions."""
    import platform

    import onnxruntime

    from visiontool.runtime import installation

    counts = classifier.assignment() or {classifier.provider: 0}  # a graph may be constants
    (most, nodes), *others = counts.items()
    share = f"{nodes:,} of {plural(sum(counts.values()), 'node')}" if others else f"all {plural(nodes, 'node')}"
    rest = "".join(f", {count:,} by {name}" for name, count in others)
    say(f"Runs on {classifier.device}: {share} by the provider {most}{rest}.")
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

"""What -v says: what a network runs on, and which share of it."""

import platform
from typing import TYPE_CHECKING

from visiontool._version import __version__
from visiontool.cli.text import say
from visiontool.text import plural

if TYPE_CHECKING:
    from visiontool.inference.classifier import Classifier


def say_how(classifier: "Classifier", batch_size: int | None) -> None:
    """Says on stderr what a network runs on, which provider has how many of its nodes, and versions."""
    import onnxruntime

    from visiontool.runtime import installation

    shares_of = classifier.assignment() or {classifier.provider: 0}  # a graph may be all constants
    (most, nodes), *others = shares_of.items()
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
    runs = plural(classifier.runs_at_once, "run")
    say(f"{runs} at once{each}; up to {plural(classifier.batch_size(batch_size), 'picture')} in a run.")
    say(
        f"visiontool {__version__}, {', '.join(installation.wheels()) or onnxruntime.__version__}, "
        f"Python {platform.python_version()}."
    )

"""Which pictures two models are compared on."""

import os
from contextlib import suppress
from pathlib import Path

from visiontool.data import dataset
from visiontool.data.discover import find_images
from visiontool.data.samples import split_called
from visiontool.data.splits import read_rows
from visiontool.errors import DataError, first_line
from visiontool.evaluation.compare import Pictures
from visiontool.files import MODEL_FILE
from visiontool.hub import resolve
from visiontool.model.spec import ModelSpec
from visiontool.text import short_repr
from visiontool.training.run import SPLITS_FILE
from visiontool.training.settings import SETTINGS_FILE, Settings


def pictures_for(spec: ModelSpec, *, run: Path | None = None, on: Path | None = None) -> Pictures:
    """The pictures to compare a model on: those in `on`, else the val split of a run, else the samples.

    Args:
        spec: of the reference model.
        run: the folder of a run; the samples, with a remark in `origin`, where its pictures are gone.
        on: class folders, with targets where each is named by a label or an id of the model, and of train, val and test
            only val; or any folder; or one picture.

    Raises:
        DataError: `on` is not there, or no picture is in it.
    """
    if on is not None:
        return _of_data(spec, on)
    origin = "the samples"
    if run is not None:
        try:
            return of_run(spec, run, "val")
        except DataError as error:
            origin = f"the samples, since {first_line(error)}"
    return Pictures(tuple(map(str, resolve.sample_pictures())), None, origin)


def run_of(path: Path) -> Path | None:
    """The folder of the run with the model file `path`, or None."""
    is_run = path.name == MODEL_FILE and (path.parent / SETTINGS_FILE).is_file()
    return path.parent if is_run else None


def of_run(spec: ModelSpec, run: Path, split: str) -> Pictures:
    """The pictures of one split of a run; for "val" of a run that was judged by folds, and so has none, of train.

    Raises:
        DataError: it is no run, it has no such pictures, or none of them is there any more.
    """
    settings = Settings.of_run(run)
    if split == "val" and settings.folds is not None:
        split = "train"
    rows = read_rows(run / SPLITS_FILE, "label")
    rows = [row for row in rows if split_called(row["split"].strip()) == split]
    if not rows:
        raise DataError(f"{run} has no pictures of {split}")
    paths = tuple(os.path.join(settings.data, row["path"]) for row in rows)
    if not any(map(os.path.isfile, paths)):
        raise DataError(f"the pictures of {run} are not in {settings.data} any more")
    class_ids = {name: class_id for class_id, name in enumerate(spec.labels)}
    targets = tuple(class_ids.get(row["label"], -1) for row in rows)
    return Pictures(paths, None if -1 in targets else targets, f"{split} of {run}")


def _of_data(spec: ModelSpec, on: Path) -> Pictures:
    if not on.exists():
        raise DataError(f"{on}: there is no such file or folder\nExpected a folder of pictures, or one picture.")
    known = dict(zip(spec.label_ids or spec.labels, spec.labels, strict=True))
    data = None
    if on.is_dir():
        with suppress(DataError):  # it may hold pictures in another way
            data = dataset.read(on, known=known)
    if data is None or data.misread or not data.samples:
        paths = tuple(find_images([str(on)]))
        if not paths:
            raise DataError(f"no picture was found in {on}")
        return Pictures(paths, None, str(on))
    val = tuple(sample for sample in data.samples if sample.split == "val")
    samples = val or data.samples
    origin = f"{on}, val" if val else str(on)
    paths = tuple(sample.path for sample in samples)
    if data.label_ids is None:
        other = next(label for label in data.labels if label not in known and label not in spec.labels)
        return Pictures(paths, None, f"{origin} ({short_repr(other)} is no class of {spec.name}, so no accuracy)")
    class_ids = {name: class_id for class_id, name in enumerate(spec.labels)}
    return Pictures(paths, tuple(class_ids[data.labels[sample.class_id]] for sample in samples), origin)

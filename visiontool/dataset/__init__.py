"""A folder of pictures, or a table of them, as samples with classes, groups and splits. Nothing is copied or written.

DATA/<label>/picture                     a class is the folder that directly holds the pictures: "birds/crane"
DATA/train|val|test/<label>/picture      the user's own splits; without val, it is drawn from train
a CSV file: path,label[,split][,group]   paths start at DATA, or where nothing is there, at the CSV's folder
"""

from visiontool.dataset.faults import Unusable, check
from visiontool.dataset.folds import folds, unfolded
from visiontool.dataset.grouping import groups_of
from visiontool.dataset.reading import VAL_IS_DRAWN, read
from visiontool.dataset.samples import Dataset, Sample, without
from visiontool.dataset.split_file import read_splits, write_splits
from visiontool.dataset.splits import contradictions, leaks, split, unjudged

__all__ = [
    "VAL_IS_DRAWN",
    "Dataset",
    "Sample",
    "Unusable",
    "check",
    "contradictions",
    "folds",
    "groups_of",
    "leaks",
    "read",
    "read_splits",
    "split",
    "unfolded",
    "unjudged",
    "without",
    "write_splits",
]

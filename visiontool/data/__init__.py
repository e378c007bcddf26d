"""Many pictures: which are meant, opened ahead in worker processes, as a dataset with classes, groups and splits."""

"""Where the rows of `predict` go: the table, a file that can be gone on with, Parquet, class folders."""

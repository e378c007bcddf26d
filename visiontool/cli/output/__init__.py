"""Where the rows of `predict` go: the table, a file that can be resumed, Parquet, class folders."""

"""Checks of a dataset, before a model learns from it: its files, copies, labels and splits."""

"""Whole-run experiments made of many comparisons: environments, shapes, artifacts, ranges, formulas."""

"""The same program in several environments: which verdict, and which single difference is responsible.

`run_matrix` runs a target in every environment (interpreter × variables), each in a process of its own,
compares them, and finds by experiment which difference between two environments changes the numbers.
"""

from whydiff.studies.matrix.records import Cell, Pairing, Responsible, Setting, settings
from whydiff.studies.matrix.report import Matrix
from whydiff.studies.matrix.study import MatrixOptions, run_matrix

__all__ = ["Cell", "Matrix", "MatrixOptions", "Pairing", "Responsible", "Setting", "run_matrix", "settings"]

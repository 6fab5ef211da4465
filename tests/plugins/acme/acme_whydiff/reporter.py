"""Causes as comma-separated values."""

from __future__ import annotations

import csv
import io

from whydiff.records import Diagnosis
from whydiff.report import Reporter


class CsvReporter(Reporter):
    """One line per cause: code, name, site, status.

    Args:
        header: whether the first line names the columns.
    """

    suffixes = (".csv",)

    def __init__(self, header: bool = True) -> None:
        self.header = header

    def render(self, diagnosis: Diagnosis) -> str:
        """The causes as text."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        if self.header:
            writer.writerow(("code", "name", "site", "status"))
        writer.writerows((cause.code, cause.name, cause.site, cause.status) for cause in diagnosis.causes)
        return out.getvalue()


REGISTER = CsvReporter

"""Dumps that other tools wrote of two runs: where do they part first?

Read only, nothing is unpickled: msprobe, SGLang's dumper, torch's DebugMode, transformers' model debugger, and plain
folders of tensors named by module. `compare_dumps` pairs what corresponds and names the first place that differs.
"""

from whydiff.studies.dumps.report import DumpComparison
from whydiff.studies.dumps.study import compare_dumps

__all__ = ["DumpComparison", "compare_dumps"]

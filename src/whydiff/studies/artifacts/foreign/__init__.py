"""Files that only the library which owns their format reads: GGUF, ONNX, HDF5, flax's msgpack, Orbax, faiss.

Each is read by its library in a process of its own (`whydiff.studies.artifacts.foreign.child`) within limits on memory,
time and disk, since compiled readers trust what a file declares. That process says where the numbers are: in the file
itself, or in a temporary file that it fills. Nothing is unpickled. `whydiff.studies.artifacts.foreign.reading` starts it.
"""

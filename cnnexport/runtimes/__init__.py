"""What runs an ONNX file: ONNX Runtime, OpenVINO, ONNX's reference evaluator, and those of other packages.

| module | what |
|---|---|
| ``base`` | what a runtime is, and the registry of them |
| ``ort``, ``openvino``, ``reference`` | one runtime each |
| ``binding`` | inputs and outputs of ONNX Runtime in memory of their own |
| ``profile`` | where nodes ran and how long, from ONNX Runtime's profile |
| ``cuda`` | why CUDA does not start |
| ``printed`` | what libraries print, kept off the terminal |
"""

from cnnexport.runtimes.base import DEFAULT, Bound, Runtime, Session, chosen, get, names, problems, saved_as

__all__ = ["DEFAULT", "Bound", "Runtime", "Session", "chosen", "get", "names", "problems", "saved_as"]

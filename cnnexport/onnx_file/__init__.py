"""What an ONNX file holds, found without loading its weights.

| module | what |
|---|---|
| ``load`` | the model, its nodes and tensors, its external data |
| ``inputs`` | what it is fed: open sizes filled, seeded numbers |
| ``macs`` | multiply-accumulates, and the model without weights that they are counted on |
| ``summary`` | operators, inputs and outputs, sizes: ``cnnexport inspect`` |
"""

from __future__ import annotations

from cnnexport.onnx_file.load import (
    dtype_name,
    external_files,
    initializers,
    load_model,
    nodes_of,
    tensor_bytes,
    tensor_info,
)
from cnnexport.onnx_file.macs import count_macs, without_weights
from cnnexport.onnx_file.summary import format_summary, inspect_onnx

__all__ = [
    "count_macs", "dtype_name", "external_files", "format_summary", "initializers", "inspect_onnx", "load_model",
    "nodes_of", "tensor_bytes", "tensor_info", "without_weights",
]

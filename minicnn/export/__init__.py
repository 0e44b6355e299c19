"""Models that leave, and models that come.

`to_onnx` and `from_onnx` for the format that most programs read; `to_safetensors` and `from_safetensors` for the arrays
by their names; `to_numpy` for a Python file that predicts with NumPy alone. ONNX and safetensors need the extras of these
names.
"""

from minicnn.export.numpy_writer import to_numpy
from minicnn.export.onnx_reader import from_onnx
from minicnn.export.onnx_writer import to_onnx
from minicnn.export.safetensors_files import from_safetensors, to_safetensors

__all__ = ["from_onnx", "from_safetensors", "to_numpy", "to_onnx", "to_safetensors"]

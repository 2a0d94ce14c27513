"""From a Keras CNN to a proven ONNX deployment."""

__version__ = "0.1.0"

"""Small models exported to ONNX by both exporters, right ones and with changed files."""

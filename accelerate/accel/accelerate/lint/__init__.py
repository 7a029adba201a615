"""What backends ask of an ONNX file, a rule at a time."""

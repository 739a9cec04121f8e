"""Write a model for programs that know nothing of s3diff: ONNX, OpenVINO, torch.export."""

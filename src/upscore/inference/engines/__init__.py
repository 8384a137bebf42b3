"""What runs a network's parts: torch, OpenVINO or ONNX Runtime, in float32, bfloat16 or int8."""

from upscore.inference.engines.base import Device, Engine, EngineName, Precision, Run

__all__ = ["Device", "Engine", "EngineName", "Precision", "Run"]

"""Engines that run the parts of a network: torch, OpenVINO and ONNX Runtime."""

from upscore.inference.engines.base import Device, Engine, EngineName, Precision, Run

__all__ = ["Device", "Engine", "EngineName", "Precision", "Run"]

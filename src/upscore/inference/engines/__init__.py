"""What runs a network's parts: torch, OpenVINO or ONNX Runtime, in float32, bfloat16 or int8."""

from upscore.inference.engines.choice import EngineName, Precision, choose_engine
from upscore.inference.engines.engine import Engine, Run

__all__ = ["Engine", "EngineName", "Precision", "Run", "choose_engine"]

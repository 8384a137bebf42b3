from __future__ import annotations

import torch

from upscore.inference.machine import describe, describe_machine


def test_the_description_has_processor_threads_and_versions() -> None:
    machine = describe_machine(threads=2)
    assert machine["threads"] == 2
    assert machine["torch"] == torch.__version__.split("+")[0]
    line = describe(threads=2)
    assert "\n" not in line
    assert str(machine["processor"]) in line
    assert "2 threads" in line
    assert f"torch {machine['torch']}" in line

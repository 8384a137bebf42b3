"""Connection to Ray, telemetry, and the number of workers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.distributed.ray.processes import command, descendants, environment
from upscore.distributed.ray import cluster as module
from upscore.distributed.ray.cluster import ClusterWarning, Workers, connected, plan_workers
from upscore.errors import UserError


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads processes from /proc")
def test_usage_statistics_are_disabled(cluster: Any) -> None:
    """All Ray processes inherit RAY_USAGE_STATS_ENABLED=0, and no dashboard is served."""
    from ray._common.usage.usage_lib import usage_stats_enabled

    assert not usage_stats_enabled()
    environments = {pid: environment(pid).get("RAY_USAGE_STATS_ENABLED") for pid in descendants()}
    servers = [pid for pid in environments if "raylet/raylet" in command(pid) or "gcs/gcs_server" in command(pid)]
    assert len(servers) == 2
    assert {environments[pid] for pid in servers} == {"0"}
    assert set(environments.values()) <= {
        "0",
        None,
    }  # a process that changed its title may have overwritten its environment
    assert not cluster._private.worker._global_node.address_info["webui_url"]


def test_usage_statistics_are_disabled_before_ray_is_imported() -> None:
    """In a separate process, since this one has imported Ray."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'upscore[ray]'")
    code = """
import os, sys
import upscore.distributed.ray.predict, upscore.distributed.ray.evaluate
assert "ray" not in sys.modules
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "ray":
            print(os.environ["RAY_USAGE_STATS_ENABLED"])
sys.meta_path.insert(0, Watch())
os.environ["RAY_USAGE_STATS_ENABLED"] = "1"
from upscore.distributed.ray.cluster import import_ray
import_ray()
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["1", "0"]  # before and after `import_ray` has set it


@pytest.mark.parametrize("address", [None, "local", "10.0.0.1:6379"])
@pytest.mark.parametrize(
    "error", [Exception("timed out\nduring startup"), RuntimeError(), OSError(28, "No space left")]
)
def test_ray_that_cannot_start_is_an_error(
    address: str | None, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises plain exceptions if its servers do not start."""
    calls: list[str] = []

    def init(**_: Any) -> None:
        raise error

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: calls.append("shutdown"))
    monkeypatch.setattr(module, "import_ray", lambda: ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    reason = "timed out" if error.args == ("timed out\nduring startup",) else "RuntimeError|No space left"
    remedy = r"10\.0\.0\.1:6379" if address == "10.0.0.1:6379" else "--address"
    with pytest.raises(UserError) as raised, connected(address):
        pass
    assert re.search(reason, str(raised.value))
    assert re.search(remedy, str(raised.value))
    assert "\n" not in str(raised.value)
    assert calls == ["shutdown"]


def test_missing_ray_is_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"upscore\[ray\]"), connected():
        pass


def machines(*resources: dict[str, float]) -> Any:
    nodes = [{"Alive": True, "Resources": own} for own in resources]
    nodes.append({"Alive": False, "Resources": {"CPU": 99.0}})
    return SimpleNamespace(nodes=lambda: nodes)


def test_plan_workers() -> None:
    large, small, gpus = {"CPU": 16.0}, {"CPU": 2.0}, {"CPU": 32.0, "GPU": 4.0}
    assert plan_workers(machines(large, large)) == Workers(8, 4, 0)
    assert plan_workers(machines(large, small)) == Workers(9, 2, 0)
    assert plan_workers(machines(small)) == Workers(1, 2, 0)
    assert plan_workers(machines(small), 2) == Workers(2, 1, 0)
    assert plan_workers(machines(large), cpus=8) == Workers(2, 8, 0)
    assert plan_workers(machines(gpus, gpus)) == Workers(8, 4, 1)
    assert plan_workers(machines({"memory": 1.0}, large), 1) == Workers(1, 4, 0)
    with pytest.raises(UserError, match=r"32 CPUs.*16"):
        plan_workers(machines(large, small), cpus=32)


def test_a_cluster_without_cpus_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[int] = []
    monkeypatch.setattr(module, "_request_cpus", requests.append)
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    head = {"Alive": True, "Resources": {"memory": 1.0}}
    replies = iter([[head], [head], [head, {"Alive": True, "Resources": {"CPU": 8.0}}]])
    with pytest.warns(ClusterWarning, match="600 seconds"):
        assert plan_workers(SimpleNamespace(nodes=lambda: next(replies)), 3, 2) == Workers(3, 2, 0)
    assert requests == [2, 0]
    with pytest.warns(ClusterWarning), pytest.raises(UserError, match="CPUs"):
        plan_workers(machines({"memory": 1.0}), wait=0)

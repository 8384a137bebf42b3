"""Connection to a Ray cluster, the number of its workers, and the transfer of a model to them.

Ray processes that are started here send no usage statistics and serve no dashboard. The settings of an existing cluster
are not changed.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from upscore.checkpoints.hub import is_on_hub
from upscore.checkpoints.model_folder import find_model
from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.text import first_line

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # otherwise Ray also reports dead processes
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise each worker prints a FutureWarning
}
"""Environment variables set before Ray is imported; all processes that it starts inherit them."""

MAX_CPUS = 4
"""Default limit of CPUs per worker; networks scale poorly beyond it, and several workers decode in parallel."""

WAIT, INTERVAL = 600.0, 1.0
"""Timeout and polling interval, in seconds, for a machine with CPUs."""


ModelFiles = str | dict[str, bytes]
"""Address on the Hugging Face hub, from which each machine downloads the model, or the files of a model folder."""


class ClusterWarning(UserWarning):
    """The cluster has no machine with CPUs yet, and the command waits for one."""


class Workers(NamedTuple):
    """Number of worker processes, and the number of CPUs and GPUs of each."""

    number: int
    cpus: int
    gpus: int


def import_ray() -> Any:
    """Import Ray with the environment of `QUIET`.

    Raises:
        UserError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise UserError('Ray is not installed: run `pip install "upscore[ray]"` to use --ray')
    os.environ.update(QUIET)
    import ray
    import ray.data

    return ray


@contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Connect to the cluster at `address` or RAY_ADDRESS, or start Ray on this machine for the duration of the block.

    An existing connection of the process is used and kept open.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address, or Ray cannot start on this machine.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **local)
        except Exception as error:  # Ray raises plain `Exception` if one of its servers does not start
            raise _connection_error(address, error) from error
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures are reported per image at the end
        yield ray
    finally:
        ray.shutdown()


def _connection_error(address: str, error: Exception) -> UserError:
    if address == "local":
        return UserError(
            f"Ray cannot start on this machine ({first_line(error)}): run the command without --ray, or give the "
            "address of a cluster with --address"
        )
    return UserError(f"no Ray cluster answers at {address} ({first_line(error)}): check the address and the cluster")


def plan_workers(ray: Any, number: int | None = None, cpus: int | None = None, *, wait: float = WAIT) -> Workers:
    """Return the number and size of workers: one for each GPU, or else workers with up to `MAX_CPUS` CPUs.

    If no machine has CPUs yet, as in a cluster that scales up from zero, one is requested and awaited.

    Args:
        ray: the connected module.
        number: number of workers; None uses the capacity of the cluster.
        cpus: CPUs of each worker; None uses up to `MAX_CPUS`.
        wait: seconds to wait for a machine with CPUs.

    Raises:
        UserError: no machine has `cpus` CPUs, or none has any after `wait` seconds.
    """
    machines = _machines(ray) or _wait_for_machines(ray, cpus or 1, wait)
    machine_cpus = [int(machine["CPU"]) for machine in machines]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    if cpus is None:
        share = sum(machine_cpus) // (number or gpus or 1)
        cpus = max(1, min(MAX_CPUS, share, *machine_cpus))
    if cpus > max(machine_cpus):
        raise UserError(f"no machine has {cpus} CPUs for a worker: use at most {max(machine_cpus)}")
    return Workers(number or gpus or sum(count // cpus for count in machine_cpus), cpus, int(gpus > 0))


def _machines(ray: Any) -> list[dict[str, float]]:
    """Return the resources of each machine with CPUs."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _wait_for_machines(ray: Any, cpus: int, wait: float) -> list[dict[str, float]]:
    warnings.warn(f"no machine of the cluster has CPUs: waiting up to {wait:.0f} seconds for one", ClusterWarning, 3)
    _request_cpus(cpus)
    deadline = time.monotonic() + wait
    while not (machines := _machines(ray)):
        if time.monotonic() > deadline:
            raise UserError(
                f"no machine of the cluster has CPUs after {wait:.0f} seconds: add one with "
                "`ray start --address HEAD:6379`, or enable the autoscaler"
            )
        time.sleep(INTERVAL)
    _request_cpus(0)  # the workers request their own
    return machines


def _request_cpus(number: int) -> None:
    """Request a total number of CPUs from the autoscaler of the cluster, if it has one."""
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=number)


def read_model(source: str) -> ModelFiles:
    """Return the files of a model for transfer to the workers.

    Raises:
        UserError: there is no such model.
    """
    if is_on_hub(source):
        return source
    folder = find_model(source)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def load_files(files: ModelFiles, engine: EngineName, precision: Precision) -> Model:
    """Load a model from transferred files, like `upscore.load`.

    Raises:
        UserError: the model cannot be read, or the engine is not installed.
    """
    if isinstance(files, str):
        return load(files, engine=engine, precision=precision)
    folder = Path(tempfile.mkdtemp(prefix="upscore-model-"))
    try:
        for name, data in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        model = load(folder, engine=engine, precision=precision)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # The folder exists as long as the model, since `Model.module` reads it at the first access.
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return model

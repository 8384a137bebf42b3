"""Connection to a Ray cluster, or to Ray on this machine, and the number of workers for it.

Ray processes started here send no usage statistics and serve no dashboard. The settings of an existing cluster are not
changed.
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

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # otherwise Ray reports dead processes, too
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # otherwise each worker prints a FutureWarning
}
"""Environment variables set before Ray is imported; all processes that it starts inherit them."""

MAX_CPUS = 4
"""Default limit of CPUs per worker; networks scale poorly beyond it, and several workers decode in parallel."""

WAIT, INTERVAL = 600.0, 1.0
"""Timeout and polling interval, in seconds, for a machine with CPUs."""


class ClusterWarning(UserWarning):
    """The cluster has no machine yet, and the command waits for one."""


class Workers(NamedTuple):
    """Number of worker processes, and the CPUs and GPUs of each."""

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
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster answers at {address}: {reason}") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures are reported per image at the end
    try:
        yield ray
    finally:
        ray.shutdown()


def plan_workers(ray: Any, number: int | None = None, cpus: int | None = None, *, wait: float = WAIT) -> Workers:
    """Return the number and size of workers: one for each GPU, or else workers with up to `MAX_CPUS` CPUs.

    If no machine has CPUs yet, as in a cluster that scales up from zero, one is requested and awaited.

    Args:
        ray: the connected module.
        number: number of workers; None uses the capacity of the cluster.
        cpus: CPUs of each worker; None chooses up to `MAX_CPUS`.
        wait: seconds to wait for a machine with CPUs.

    Raises:
        UserError: no machine has `cpus` CPUs, or none has any after `wait` seconds.
    """
    machines = _machines(ray) or _wait_for_machines(ray, cpus or 1, wait)
    processors = [int(machine["CPU"]) for machine in machines]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    if cpus is None:
        share = sum(processors) // (number or gpus or 1)
        cpus = max(1, min(MAX_CPUS, share, *processors))
    if cpus > max(processors):
        raise UserError(f"no machine has {cpus} CPUs for a worker: use at most {max(processors)}")
    return Workers(number or gpus or sum(own // cpus for own in processors), cpus, int(gpus > 0))


def _machines(ray: Any) -> list[dict[str, float]]:
    """Return the resources of each machine with CPUs."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _wait_for_machines(ray: Any, cpus: int, wait: float) -> list[dict[str, float]]:
    warnings.warn(f"no machine of the cluster has CPUs: waiting up to {wait:.0f} seconds for one", ClusterWarning, 3)
    _request_processors(cpus)
    deadline = time.monotonic() + wait
    while not (machines := _machines(ray)):
        if time.monotonic() > deadline:
            raise UserError(
                f"no machine of the cluster has CPUs after {wait:.0f} seconds: add one with "
                "`ray start --address HEAD:6379`, or enable the autoscaler"
            )
        time.sleep(INTERVAL)
    _request_processors(0)  # the workers request their own
    return machines


def _request_processors(number: int) -> None:
    """Request a total number of CPUs from the autoscaler of the cluster, if it has one."""
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=number)


ModelFiles = str | dict[str, bytes]
"""Address on the Hugging Face hub, from which each machine downloads the model, or the files of a model folder."""


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
    weakref.finalize(
        model, shutil.rmtree, folder, ignore_errors=True
    )  # `Model.module` reads the folder at the first access
    return model

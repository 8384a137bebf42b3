"""A cluster of machines, or this machine alone: reached, counted, and quiet.

Nothing is sent about how Ray is used by what is started here, and no dashboard is served. A cluster that runs already
is as its owner started it.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

from upscore.errors import UserError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else processes that die are told of twice, and in Ray's words
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else each worker warns of a change to come
}
"""Set before Ray is imported, and with that for all processes that it starts."""

MOST_CPUS = 4
"""For one worker, unless told otherwise: a network gains less and less from more, and workers decode side by side."""


WAIT, INTERVAL = 600.0, 1.0
"""Seconds to wait for a machine with processors, and between two looks."""


class ClusterWarning(UserWarning):
    """The cluster makes the user wait."""


class Workers(NamedTuple):
    """How many processes hold the network, and what each may use."""

    number: int
    cpus: int
    gpus: int


def import_ray() -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("ray") is None:
        raise UserError('Ray is not installed, which --ray needs: pip install "upscore[ray]"')
    os.environ.update(QUIET)
    import ray
    import ray.data

    return ray


@contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or in RAY_ADDRESS, or started on this machine for as long as needed.

    A connection that the process has already is used, and kept.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster answers at {address}: {reason}") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is told of at the end, photo by photo
    try:
        yield ray
    finally:
        ray.shutdown()


def plan_workers(ray: Any, number: int | None = None, cpus: int | None = None, *, wait: float = WAIT) -> Workers:
    """Workers for the machines of a cluster: one for each GPU, or else with up to `MOST_CPUS` processors each.

    Where no machine has processors yet, as in a cluster that scales itself up from none, one is asked for and waited
    for.

    Args:
        ray: the module, connected.
        number: of all workers together; by default as many as have room.
        cpus: that each may use.
        wait: seconds to wait for a machine with processors.

    Raises:
        UserError: no machine has so many processors, or none has any after the wait.
    """
    machines = _machines(ray) or _wait_for_machines(ray, cpus or 1, wait)
    processors = [int(machine["CPU"]) for machine in machines]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    if cpus is None:
        share = sum(processors) // (number or gpus or 1)
        cpus = max(1, min(MOST_CPUS, share, *processors))
    if cpus > max(processors):
        raise UserError(f"no machine has {cpus} processors for a worker: the largest has {max(processors)}")
    return Workers(number or gpus or sum(own // cpus for own in processors), cpus, int(gpus > 0))


def _machines(ray: Any) -> list[dict[str, float]]:
    """The resources of each machine that has processors."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _wait_for_machines(ray: Any, cpus: int, wait: float) -> list[dict[str, float]]:
    warnings.warn(
        f"no machine of the cluster has processors: waiting up to {wait:.0f} seconds for one", ClusterWarning, 3
    )
    _request_processors(cpus)
    until = time.monotonic() + wait
    while not (machines := _machines(ray)):
        if time.monotonic() > until:
            raise UserError(
                f"no machine of the cluster has processors after {wait:.0f} seconds: start one that joins it, by "
                "`ray start --address HEAD:6379`, or let its autoscaler start some"
            )
        time.sleep(INTERVAL)
    _request_processors(0)  # the workers ask for theirs
    return machines


def _request_processors(number: int) -> None:
    """Ask the cluster's autoscaler, if it has one, for machines with so many processors in all."""
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=number)

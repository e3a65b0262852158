"""Runs a test's function in two processes that meet as torchrun's do."""

from __future__ import annotations

import os
import queue
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from helpers.waiting import PATIENCE
from medcap.training.distributed.context import DistributedContext, join_world


def run_in_processes(
    function: Callable[..., Any],
    *arguments: Any,
    size: int = 2,
    local_size: int | None = None,
    timeout: float = PATIENCE,
    killed: Sequence[int] = (),
) -> list[Any]:
    """Run ``function(world, *arguments)`` in ``size`` processes that exchange over gloo on the CPU.

    They are forked: what the test has imported is there at once.

    Args:
        function: function of the world, then the arguments; it may be a local function.
        arguments: arguments, the same for every process.
        size: how many processes.
        local_size: how many of them stand for one node; all, if None.
        timeout: seconds after which the processes are killed and the test fails.
        killed: ranks that end without a result.

    Returns:
        What the function returned in each, in the order of the ranks; None for the killed ones.

    Raises:
        AssertionError: with the traceback of the process that failed first, or if they took too long.
    """
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(
            target=_run, args=(rank, size, local_size or size, port, function, arguments, results), daemon=True
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        while len(found) < size - len(killed):
            try:
                rank, result, failure = results.get(timeout=timeout)
            except queue.Empty:
                raise AssertionError(f"only the ranks {sorted(found)} ended within {timeout} s") from None
            assert failure is None, f"rank {rank}:\n{failure}"
            found[rank] = result
    finally:
        for process in processes:
            process.join(timeout=PATIENCE if len(found) == size - len(killed) else 0)
            if process.is_alive():
                process.kill()
                process.join()
    return [found.get(rank) for rank in range(size)]


def _run(
    rank: int, size: int, local_size: int, port: int, function: Callable[..., Any], arguments: tuple, results: Any
) -> None:
    # A forked OpenMP pool has no threads left, and would wait for them.
    torch.set_num_threads(1)
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank % local_size, "LOCAL_WORLD_SIZE": local_size}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
    world: DistributedContext | None = None
    try:
        world = join_world("cpu", timeout_minutes=PATIENCE / 60)
        results.put((rank, function(world, *arguments), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
    finally:
        results.close()
        results.join_thread()
        if world is not None:
            world.leave()
        # The test's own clean-up belongs to the parent.
        os._exit(0)

"""The processes of a run: sums and messages, turns and claims, and what is said when they cannot meet."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.processes import run_in_processes
from medcap.errors import UserError
from medcap.training.distributed.context import DistributedContext, FailedElsewhere, join_world, single_world

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def _set(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    for name, value in {**TORCHRUN, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_one_process_has_nobody_to_wait_for() -> None:
    world = single_world(torch.device("cpu"))
    assert (world.rank, world.size, world.local_rank, world.local_size, world.node) == (0, 1, 0, 1, 0)
    assert world.is_main
    assert world.sum([1.5, 2]) == [1.5, 2]
    assert world.gather({"rows": (1, 2)}) == [{"rows": [1, 2]}]
    assert world.main_first(lambda: 7, "index") == 7
    assert world.claim("error")
    world.sum([0.0])
    world.leave()


@pytest.mark.processes
def test_processes_know_who_they_are_and_add_up_in_the_order_of_the_ranks() -> None:
    def work(world: DistributedContext) -> Any:
        # 1e16 + 1 loses the 1; only the order 0, 1, 2 gives 1e16 - 1e16 + 1 = 1.
        values = [(1e16, 3.0), (-1e16, float("inf")), (1.0, -1.0)][world.rank]
        return [world.rank, world.size, world.local_rank, world.is_main, world.device.type], world.sum(values)

    results = run_in_processes(work, size=3)
    assert [who for who, _ in results] == [[rank, 3, rank, rank == 0, "cpu"] for rank in range(3)]
    assert [sums for _, sums in results] == [[1.0, float("inf")]] * 3


@pytest.mark.processes
def test_every_rank_hears_every_rank_whatever_the_lengths() -> None:
    def work(world: DistributedContext) -> Any:
        return world.gather(None if world.rank == 0 else {"names": ["Röntgen.png"] * 40, "bad": 2})

    expected = [None, {"names": ["Röntgen.png"] * 40, "bad": 2}]
    assert run_in_processes(work) == [expected, expected]


@pytest.mark.processes
def test_main_makes_the_cache_and_the_other_finds_it_each_time(tmp_path: Path) -> None:
    def work(world: DistributedContext) -> Any:
        def index() -> str:
            if (tmp_path / "cache").exists():
                return "found"
            time.sleep(0.2)
            (tmp_path / "cache").write_text("made")
            return "made"

        first = world.main_first(index, "index")
        world.sum([0.0])
        (tmp_path / "cache").unlink(missing_ok=True)
        world.sum([0.0])
        second = world.main_first(index, "index")
        world.sum([0.0])  # the store goes with the first process
        return [first, second]

    assert run_in_processes(work) == [["made", "made"], ["found", "found"]]


@pytest.mark.processes
def test_each_node_has_a_first_process(tmp_path: Path) -> None:
    def work(world: DistributedContext) -> Any:
        order: list[str] = []
        world.main_first(lambda: order.append(f"node {world.node} rank {world.local_rank}"), "index")
        return [order, world.local_size]

    results = run_in_processes(work, size=2, local_size=1)
    assert results == [[["node 0 rank 0"], 1], [["node 1 rank 0"], 1]]


@pytest.mark.processes
def test_others_do_not_wait_for_a_main_that_failed() -> None:
    def work(world: DistributedContext) -> Any:
        def index() -> None:
            raise (
                UserError("data.json: row 3 is not an object")
                if world.local_rank == 0
                else AssertionError("never runs")
            )

        try:
            world.main_first(index, "index of data.json")
        except UserError as error:
            told = [str(error), isinstance(error, FailedElsewhere)]
        world.sum([0.0])  # the store goes with the first process
        return told

    assert run_in_processes(work) == [
        ["data.json: row 3 is not an object", False],
        ["index of data.json failed on rank 0: see its message", True],
    ]


@pytest.mark.processes
def test_one_process_claims_and_the_rest_do_once_the_store_has_ended() -> None:
    def ask(world: DistributedContext) -> Any:
        claims = [world.claim("out of memory"), world.claim("out of memory"), world.claim(f"rank {world.rank}")]
        world.sum([0.0])
        if world.rank == 1:
            time.sleep(0.5)  # rank 0, which holds the store, has ended by then
            claims.append(world.claim("out of memory"))
        return claims

    (one, again, own), (other, once_more, its_own, alone) = run_in_processes(ask)
    assert sorted([one, other]) == [False, True]
    assert [again, once_more, own, its_own] == [False, False, True, True]
    assert alone


@pytest.mark.processes
def test_process_that_takes_too_long_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"only the ranks \[1\] ended within 1 s"):
        run_in_processes(lambda world: time.sleep(30 if world.rank == 0 else 0), timeout=1)


def test_process_that_torchrun_did_not_start_is_shown_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, RANK=None)
    with pytest.raises(UserError, match=r"RANK is not set: .* tune run --nproc_per_node 2 medcap/recipes/full_fine"):
        join_world("cpu", 1)


@pytest.mark.slow
def test_unreachable_others_are_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch)
    with pytest.raises(UserError, match=r"^rank 1 of 2 cannot meet the others at 127\.0\.0\.1:1 \(") as caught:
        join_world("cpu", timeout_minutes=0.01)
    assert "\n" not in str(caught.value)


def test_device_must_be_one_that_each_process_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with pytest.raises(UserError, match=r"--nproc_per_node 2: this machine has 1 GPUs"):
        join_world("auto", 1)
    with pytest.raises(UserError, match=r"device=cuda:0: each process takes the GPU of its number"):
        join_world("cuda:0", 1)
    with pytest.raises(UserError, match=r"device=gpu is unknown"):
        join_world("gpu", 1)


@pytest.mark.parametrize(("given", "expected"), [(None, 3), ("7", 5)])
def test_cores_are_shared_out_unless_the_user_did(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: int
) -> None:
    _set(monkeypatch, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS=given)
    monkeypatch.setattr("medcap.processes.num_processors", lambda: 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        world = join_world("cpu", 1)
        assert torch.get_num_threads() == expected
        assert (world.size, world.local_size) == (1, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_a_gpu_has_its_number_and_memory_that_grows(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "the user's")
    assert single_world(torch.device("cuda")).device == torch.device("cuda", 0)
    assert os.environ[name] == "the user's"
    assert single_world(torch.device("cuda", 1)).device == torch.device("cuda", 1)
    for other in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(other, "")  # so that it is set back
        monkeypatch.delenv(other)
    single_world(torch.device("cpu"))
    assert "PYTORCH_ALLOC_CONF" not in os.environ
    single_world(torch.device("cuda"))
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers.pretend_cuda import pretend_cuda
from helpers.waiting import wait_for
from medcap.errors import UserError
from medcap.threads import reading_threads, run_apart, use_device


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def large_operation():
    return float(torch.ones(2_000_000).sum())


def tasks():
    return {int(task) for task in os.listdir("/proc/self/task")}


def test_a_reading_thread_uses_one_processor_and_all_others_what_they_had(three_threads):
    with reading_threads(4) as threads:
        assert set(threads.map(lambda _: torch.get_num_threads(), range(20))) == {1}
        assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 3


def test_reading_threads_have_the_name_that_they_are_given_and_are_no_more_than_processors(monkeypatch):
    monkeypatch.setattr("medcap.threads.num_processors", lambda: 2)
    with reading_threads(4, "prepare") as threads:
        held = threading.Barrier(2, timeout=20)

        def name(_):
            held.wait()
            return threading.current_thread().name

        assert set(threads.map(name, range(4))) == {"prepare_0", "prepare_1"}


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them")
@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="torch has no worker threads of OpenMP")
def test_no_worker_thread_is_left_by_a_large_operation_of_either(three_threads):
    others = tasks()

    def apart_and_reading():
        assert large_operation() == 2_000_000
        workers = tasks() - others - {threading.get_native_id()}
        with reading_threads(1) as threads:
            assert threads.submit(large_operation).result() == 2_000_000
            readers = threads.submit(threading.get_native_id).result(), tasks()
        return threading.get_native_id(), workers, *readers

    own, workers, reader, all_tasks = run_apart(apart_and_reading)
    assert workers
    assert all_tasks - others == {own, reader} | workers
    wait_for(lambda: not tasks() & ({own, reader} | workers))


def test_what_a_function_apart_returns_or_raises_is_handed_on():
    assert run_apart(lambda: 3) == 3

    def fails():
        raise UserError("no such run")

    with pytest.raises(UserError, match="no such run"):
        run_apart(fails)


def test_only_this_thread_uses_the_device_that_it_names():
    with pretend_cuda():
        use_device(torch.device("cpu"))
        assert run_apart(lambda: (use_device(torch.device("cuda", 1)), torch.cuda.current_device())[1]) == 1
        assert torch.cuda.current_device() == 0

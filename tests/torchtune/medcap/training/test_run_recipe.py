import signal
import subprocess
import sys
import time

import pytest
import torch

from helpers.processes import run_in_processes
from medcap.errors import UserError
from medcap.training import run_recipe as program
from medcap.training.distributed.context import DistributedContext, single_world
from medcap.training.run_recipe import run_recipe


class Recipe:
    """Does what it is told to, and remembers what was called."""

    def __init__(self, world, status=0, setup=None):
        self.world, self.status, self.called = world, status, []
        self._setup = setup or (lambda: None)

    def setup(self):
        self.called.append("setup")
        self._setup()

    def train(self):
        self.called.append("train")
        return self.status

    def cleanup(self):
        self.called.append("cleanup")


@pytest.fixture(autouse=True)
def same_signal_handler():
    """Leave the handler of ended child processes as it was."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def alone():
    return single_world(torch.device("cpu"))


def failing(error):
    def setup():
        raise error

    return Recipe(alone(), setup=setup)


def test_a_recipe_runs_to_its_end():
    recipe = Recipe(alone())
    run_recipe(recipe)
    assert recipe.called == ["setup", "train", "cleanup"]


def test_a_run_that_was_stopped_has_the_signals_status_and_no_proof_of_its_end():
    recipe = Recipe(alone(), status=143)
    with pytest.raises(SystemExit) as end:
        run_recipe(recipe)
    assert end.value.code == 143
    assert recipe.called == ["setup", "train"]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("seed=x: a number"), 2, "medcap: seed=x: a number\n"),
        (MemoryError(), 1, "medcap: the system's memory is full (MemoryError): lower num_workers, batch_size"),
    ],
)
def test_an_error_that_has_an_explanation_is_one_line(capsys, error, status, line):
    with pytest.raises(SystemExit) as end:
        run_recipe(failing(error))
    assert end.value.code == status
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


@pytest.mark.processes
def test_a_worker_that_ends_while_an_error_is_reported_does_not_take_its_place(capsys, monkeypatch):
    def raise_another(number, frame):
        raise RuntimeError("DataLoader worker (pid 2) is killed by signal: Killed.")

    def explain(error):
        subprocess.run([sys.executable, "-c", ""], check=True)  # a child ends
        return str(error)

    signal.signal(signal.SIGCHLD, raise_another)
    monkeypatch.setattr(program, "explain", explain)
    with pytest.raises(SystemExit) as end:
        run_recipe(failing(RuntimeError("worker 1 died")))
    assert end.value.code == 1
    assert capsys.readouterr().err == "medcap: worker 1 died\n"


@pytest.mark.parametrize("wanted", ["", "1"])
def test_an_error_that_is_not_foreseen_is_one_line_and_its_traceback_on_request(capsys, monkeypatch, wanted):
    monkeypatch.setenv("MEDCAP_TRACEBACK", wanted)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "mine.yaml"])
    with pytest.raises(SystemExit) as end:
        run_recipe(failing(ArithmeticError("unexpected")))
    assert end.value.code == 1
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("medcap: the training run --config mine.yaml ended in an error that was not foreseen: ")
    assert "ArithmeticError: unexpected" in line and "MEDCAP_TRACEBACK=1" in line
    assert before[:1] == (["Traceback (most recent call last):"] if wanted else [])


def test_an_error_of_a_data_loaders_worker_is_its_last_line(capsys):
    text = (
        'Caught IndexError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"\n'
    )
    with pytest.raises(SystemExit):
        run_recipe(failing(IndexError(text + "IndexError: turns\n")))
    (line,) = capsys.readouterr().err.splitlines()
    assert "IndexError: turns" in line and "Traceback" not in line


def told(world: DistributedContext, setup, monkeypatch):
    """What each process tells, and its status."""
    lines = []

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(program, "_leave_at_once", leave)
    monkeypatch.setattr(program, "report", lines.append)
    monkeypatch.setattr(program, "QUIET_SECONDS", 0)
    monkeypatch.setattr(program, "_let_others_notice", lambda _: None)
    status = 0
    try:
        run_recipe(Recipe(world, setup=lambda: setup(world)))
    except SystemExit as end:
        status = end.code
    world.sum([0.0])
    return lines, status


@pytest.mark.processes
def test_an_error_of_all_processes_is_reported_by_one(monkeypatch):
    def setup(world):
        raise UserError("no such file")

    answers = run_in_processes(told, setup, monkeypatch)
    assert sorted(answers) == [([], 2), (["no such file"], 2)]


@pytest.mark.processes
def test_the_process_that_knows_the_reason_tells_it_however_late_it_is(monkeypatch):
    def setup(world):
        def fail():
            raise UserError("the file is damaged")

        try:
            world.main_first(fail, "dataset")
        except UserError:
            # The system may let a process wait at any place.
            time.sleep(0.5 if world.is_main else 0)
            raise

    assert run_in_processes(told, setup, monkeypatch) == [(["the file is damaged"], 2), ([], 2)]

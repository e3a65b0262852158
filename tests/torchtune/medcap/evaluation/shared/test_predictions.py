"""Several processes that answer together; the model is a function, and each process is a fork of the test."""

import os
import signal
import time

import pytest

from helpers.processes import run_in_processes
from helpers.waiting import wait_for
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.evaluation.answering import PredictionStore, collect, generated
from medcap.evaluation.shared.team import Team
from medcap.generation.prompt import user_message
from medcap.generation.request import Generation, Request
from medcap.processes import FailedElsewhere
from medcap.scoring.question import Question

pytestmark = pytest.mark.processes


def questions(count, images=7):
    return [
        Question(f"q{index}", [user_message(ImageRef(f"{index % images}.png"), f"What is {index}?")], ("x",))
        for index in range(count)
    ]


class Model:
    def __init__(self, seconds=0.0, broken=(), kill_after=None):
        self.asked, self.seconds, self.broken, self.kill_after, self.last = [], seconds, broken, kill_after, 0.0

    def before_kill(self):
        pass

    def __call__(self, requests, on_result):
        for index, request in enumerate(requests):
            if request.id in self.broken or self.broken == "all":
                raise UserError(f"{request.id} is too long")
            if len(self.asked) == self.kill_after:
                self.before_kill()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            self.asked.append(request.id)
            on_result(index, Generation(f"answer {request.id}", [1, 2]))
        self.last = time.monotonic()


def ask(folder, model, rows, team=None, **options):
    requests = [Request(row.messages, row.id) for row in rows]
    settings = options.pop("settings", {"t": 0})
    with PredictionStore(folder, settings, team=team, **options).open("predictions") as file:
        return collect(rows, requests, model, lambda _, result: generated(result), file)


def plain(folder, rows, **options):
    ask(folder, Model(**options), rows)
    return (folder / "predictions.jsonl").read_bytes()


def test_two_processes_write_the_file_of_one(tmp_path):
    rows = questions(60)
    broken = ("q3", "q44")

    def work(world):
        model = Model(0.001, broken)
        team = Team(world, batch=4)
        world.sum([0.0])  # both are ready
        entries = ask(tmp_path / "two", model, rows, team)
        again = Model()
        ask(tmp_path / "two", again, rows, team)
        team.finish()
        return [model.asked, [entry["question_id"] for entry in entries], again.asked]

    (one, *rest), (other, *theirs) = run_in_processes(work)
    assert sorted([*one, *other]) == sorted({f"q{index}" for index in range(60)} - {*broken})
    assert min(len(one), len(other)) > 0
    assert rest[0] == theirs[0] == [f"q{index}" for index in range(60)]
    assert sorted([*rest[1], *theirs[1]]) == ["q3", "q44"]
    ask(tmp_path / "one", Model(broken=broken), rows)
    assert (tmp_path / "two" / "predictions.jsonl").read_bytes() == plain(tmp_path / "one", rows)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "predictions.jsonl",
        "predictions.settings.json",
    ]


def test_the_others_answer_the_questions_of_a_process_that_is_killed(tmp_path):
    rows = questions(50)

    def work(world):
        model, team = Model(0.002, kill_after=5 if world.rank == 1 else None), Team(world, batch=4, patience=0.3)
        ask(tmp_path / "three", model, rows, team)
        team.finish()  # the store goes with the first process
        return model.asked

    one, _, other = run_in_processes(work, size=3, killed=[1])
    # Of what the killed one had written, only the part that it was at is asked again.
    assert len(one) + len(other) == len({*one, *other})
    assert 45 <= len({*one, *other}) < 50
    assert (tmp_path / "three" / "predictions.jsonl").read_bytes() == plain(tmp_path / "one", rows)


def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path):
    rows, folder = questions(50), tmp_path / "killed"

    def work(world):
        model = Model(0.002, kill_after=6 + 3 * world.rank)
        if world.rank == 0:  # it holds the store, so it must not be the first to end
            part = folder / "predictions.part_1.jsonl"
            model.before_kill = lambda: wait_for(lambda: part.is_file() and part.read_text().count("\n") == 9)
        ask(folder, model, rows, Team(world, batch=4))

    run_in_processes(work, size=2, killed=[0, 1])
    again = Model()
    ask(folder, again, rows)
    assert len(again.asked) == 50 - 6 - 9
    assert not list(folder.glob("*part*"))
    assert (folder / "predictions.jsonl").read_bytes() == plain(tmp_path / "one", rows)


def test_processes_of_different_speed_end_together(tmp_path):
    rows = questions(210, images=210)

    def work(world):
        model = Model(0.012 if world.rank else 0.004)
        world.sum([0.0])
        started = time.monotonic()
        ask(tmp_path, model, rows, Team(world, batch=16))
        world.sum([0.0])
        return [model.last - started, len(model.asked)]

    (fast, many), (slow, few) = run_in_processes(work)
    assert abs(fast - slow) < 0.15 * max(fast, slow)
    assert many > few


def test_all_processes_stop_where_nothing_can_be_answered(tmp_path):
    def work(world):
        team = Team(world, batch=32)
        with pytest.raises(UserError, match="rows failed and none was answered; the first one: q") as caught:
            ask(tmp_path, Model(broken="all"), questions(200), team)
        # The next thing goes on.
        ask(tmp_path / "more", Model(), questions(3), team)
        team.finish()
        return isinstance(caught.value, FailedElsewhere)

    assert False in run_in_processes(work)


def test_all_processes_stop_where_the_file_has_answers_under_other_settings(tmp_path):
    ask(tmp_path, Model(), questions(3))

    def work(world):
        with pytest.raises(UserError, match="overwrite=true to replace them") as caught:
            ask(tmp_path, Model(), questions(3), Team(world), settings={"t": 1})
        world.sum([0.0])
        return isinstance(caught.value, FailedElsewhere)

    assert run_in_processes(work) == [False, True]


def test_processes_with_other_questions_are_refused(tmp_path):
    def work(world):
        with pytest.raises(UserError, match="rank 1 has other questions for"):
            ask(tmp_path, Model(), questions(5 + world.rank), Team(world))
        world.sum([0.0])

    run_in_processes(work)

import pytest

from medcap.errors import UserError
from medcap.evaluation.tasks import TASKS, requested_tasks


def test_a_key_runs_the_task_of_its_name():
    config = {"test_vqa": True, "test_metrics": True, "test_caption": False, "test_chunk": 50, "test_chunk_idx": 0}
    assert requested_tasks(config) == ["caption", "vqa"]
    assert requested_tasks({"test_caption": True, "test_metrics": True, "seed": 1}) == ["caption"]
    assert requested_tasks({"test_unknown": False, "vqa_type": "omit"}) == []
    assert {name: task.name for name, task in TASKS.items()} == {"caption": "caption", "vqa": "vqa"}


def test_an_unknown_task_is_named_with_a_hint():
    with pytest.raises(UserError, match=r"test_captions.*did you mean test_caption"):
        requested_tasks({"test_captions": True})
    with pytest.raises(UserError, match="must be true or false"):
        requested_tasks({"test_vqa": "yes"})

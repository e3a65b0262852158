import pytest

from medcap.errors import UserError
from medcap.evaluation.tasks.registry import TASKS, requested_tasks


def test_a_key_runs_the_task_of_its_name():
    config = {"test_vqa": True, "test_metrics": True, "test_caption": False, "test_chunk": 50, "test_chunk_idx": 0}
    assert requested_tasks(config) == ["caption", "vqa"]
    assert requested_tasks({"test_caption": True, "test_metrics": True, "seed": 1}) == ["caption"]
    assert requested_tasks({"test_unknown": False, "vqa_type": "omit"}) == []
    assert requested_tasks({f"test_{name}": True for name in reversed(TASKS)}) == [
        "caption",
        "omnimedvqa",
        "vqarad",
        "slake",
        "pathvqa",
        "pmcvqa",
        "vqamed",
        "vqa",
        "coloninst",
        "medgrit",
        "slake_boxes",
        "grounding",
        "medsg",
        "pixel_grounding",
        "mecovqa",
        "region_vqa",
        "medxpertqa",
        "medframeqa",
        "mmmu_med",
        "gmai_mmbench",
        "radrestruct",
        "iu_xray",
        "rocov2",
        "chat",
    ]


def test_each_task_says_its_name_and_the_protocols_that_score_it():
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}
    assert {name: task.protocols[0] for name, task in TASKS.items()} == {
        "caption": "coco",
        "omnimedvqa": "option_text",
        "vqarad": "exact",
        "slake": "exact",
        "pathvqa": "exact",
        "pmcvqa": "option_text",
        "vqamed": "exact",
        "vqa": "exact",
        "coloninst": "colongpt",
        "medgrit": "bird_vg",
        "slake_boxes": "boxes",
        "grounding": "boxes",
        "medsg": "boxes",
        "pixel_grounding": "masks",
        "mecovqa": "medplib",
        "region_vqa": "exact",
        "medxpertqa": "option_letter",
        "medframeqa": "option_letter",
        "mmmu_med": "option_letter",
        "gmai_mmbench": "option_letter",
        "radrestruct": "report_options",
        "iu_xray": "coco",
        "rocov2": "imageclef_rouge",
        "chat": "llava_med",
    }
    assert all(task.title for task in TASKS.values())


def test_an_unknown_task_is_named_with_a_hint():
    with pytest.raises(UserError, match=r"test_captions.*did you mean test_caption"):
        requested_tasks({"test_captions": True})
    with pytest.raises(UserError, match="must be true or false"):
        requested_tasks({"test_vqa": "yes"})


@pytest.mark.parametrize("name", TASKS)
def test_what_is_not_there_is_said_in_one_line(name, tmp_path):
    task = TASKS[name]()
    with pytest.raises(UserError, match=r"^[^\n]*must hold|holds none of[^\n]*$"):
        task.load(tmp_path)
    with pytest.raises(UserError, match=r"^[^\n]*nowhere does not exist[^\n]*$"):
        task.load(tmp_path / "nowhere")

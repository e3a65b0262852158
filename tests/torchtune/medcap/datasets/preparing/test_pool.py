import pytest
from PIL import Image

from helpers.killing_reader import KillingReader
from medcap.data.images.reader import ImageReader
from medcap.datasets.preparing.pool import run_tasks
from medcap.datasets.preparing.tasks import Picture, Task, file_tasks
from medcap.datasets.preparing.worker import Settings, Worker
from medcap.errors import UserError


def write_images(folder, names):
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / "in" / f"{name}.png")
    return [Picture(str(folder / "in" / f"{name}.png"), name) for name in names]


@pytest.mark.slow
def test_tasks_are_done_in_their_order_by_any_number_of_processes(tmp_path):
    pictures = write_images(tmp_path, [f"{number:02d}" for number in range(20)])
    worker = Worker(ImageReader([tmp_path / "in"]), Settings(), tmp_path / "out")
    for processes in (0, 2):
        outcomes = list(run_tasks(worker, file_tasks(pictures), processes))
        assert [outcome.name for outcome in outcomes] == [picture.stem for picture in pictures]
        assert len(list((tmp_path / "out").glob("*.png"))) == 20


@pytest.mark.slow
@pytest.mark.parametrize("is_shard", [False, True])
def test_an_image_that_kills_its_process_fails_alone(tmp_path, is_shard):
    pictures = write_images(tmp_path, ["a", "killer", "b"])
    worker = Worker(KillingReader([tmp_path / "in"]), Settings(), tmp_path / "out")
    tasks = [Task("x.tar", tuple(pictures), is_shard=True)] if is_shard else file_tasks(pictures)
    outcomes = list(run_tasks(worker, tasks, 1))
    assert [source for outcome in outcomes for source, _ in outcome.pictures] == [
        pictures[0].source,
        pictures[2].source,
    ]
    [(source, reason)] = [failure for outcome in outcomes for failure in outcome.failures]
    assert source == pictures[1].source
    assert "ended the process" in reason


@pytest.mark.slow
def test_an_error_that_ends_the_run_is_the_users(tmp_path):
    pictures = write_images(tmp_path, ["a"])
    worker = Worker(ImageReader([tmp_path / "in"]), Settings(), tmp_path / "in" / "a.png")
    with pytest.raises(UserError, match="cannot be written"):
        list(run_tasks(worker, file_tasks(pictures), 1))

import pytest

from medcap.data.images.reference import ImageRef
from medcap.evaluation.shared.division import divide
from medcap.generation.prompt import question_request


def requests(images, questions):
    return [
        question_request(ImageRef(f"{image}.png"), f"Question {question}?", f"{image}-{question}")
        for question in range(questions)
        for image in range(images)
    ]


def divided(asked, processes, batch, pending=None):
    pending = range(len(asked)) if pending is None else pending
    return divide(asked, list(pending), [None] * len(asked), processes, batch)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_question_is_in_one_part_with_the_others_of_its_image(processes):
    parts = divided(requests(images=40, questions=3), processes, batch=8)
    assert sorted(index for part in parts for index in part) == list(range(120))
    # Index modulo 40 is the image.
    images = [{index % 40 for index in part} for part in parts]
    assert sum(map(len, images)) == 40
    assert all(part == sorted(part) for part in parts)


def test_parts_are_whole_batches_and_become_smaller():
    sizes = list(map(len, divided(requests(images=400, questions=1), 2, batch=8)))
    assert sizes[:4] == [80, 64, 48, 40]  # at most a fifth of what is left, for two processes
    assert sizes == sorted(sizes, reverse=True)
    assert all(size % 8 == 0 for size in sizes if size > 8)
    assert min(sizes) >= 1


def test_no_part_is_so_small_that_a_batch_is_nearly_empty():
    assert min(map(len, divided(requests(images=960, questions=1), 2, batch=64)[:-1])) == 30


def test_a_few_questions_are_still_shared_out():
    assert len(divided(requests(images=6, questions=1), 3, batch=32)) == 6


def test_what_has_an_answer_is_left_out():
    parts = divided(requests(images=4, questions=1), 2, 4, pending=[1, 3])
    assert sorted(index for part in parts for index in part) == [1, 3]


def test_equal_questions_without_an_image_are_asked_by_one_process():
    asked = [question_request(None, f"Question {index % 2}?", str(index)) for index in range(64)]
    parts = divided(asked, 2, batch=32)
    assert sorted(map(set, ([index % 2 for index in part] for part in parts)), key=str)[0] in ({0}, {1})
    # One image with very many questions is not left to one process alone.
    assert len(divided(requests(images=1, questions=64), 2, batch=4)) > 8


def test_the_longest_questions_come_first():
    asked = [question_request(None, "word " * length, str(length)) for length in (5, 300, 40, 80, 200, 1)]
    parts = divided(asked, 6, batch=1)
    assert [index for part in parts for index in part] == [1, 4, 3, 2, 0, 5]

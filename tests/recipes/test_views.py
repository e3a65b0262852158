"""One volume, looked at in training, generation, the chat and the server: the same slices, the right way up."""

import hashlib
import io
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from helpers.serving import image_part
from helpers.tiny_generation import NUM_IMAGE_TOKENS, tiny_generator
from medcap.chat.terminal import Chat
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.datasets.chat import chat_dataset
from medcap.errors import UserError
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.serving.api.api_error import ApiError
from medcap.serving.api.chat_body import read_chat_body
from medcap.serving.api.conversation_reader import ConversationReader
from medcap.serving.limits import Limits

# From the patient's left, back and feet; 8 is the size of the tower's images, so that no pixel is interpolated.
VALUES = np.random.default_rng(5).integers(-400, 400, (8, 8, 8)).astype(np.int16)
THREE = ((-100.0, 600.0), (40.0, 350.0), (40.0, 80.0))
ANSWER = [{"from": "human", "value": "<image>\nIs there a circle?"}, {"from": "gpt", "value": "Yes"}]


def expected(axis, numbers, windows=THREE):
    """The slices as ``[n, 3, 8, 8]``: right, front and head at the left and at the top."""
    shown = []
    for number in numbers:
        values = {
            "sagittal": VALUES[number, ::-1, ::-1].T,
            "coronal": VALUES[::-1, number, ::-1].T,
            "axial": VALUES[::-1, ::-1, number].T,
        }[axis].astype(np.float64)
        channels = [np.clip((values - (center - width / 2)) * 255 / width, 0, 255) for center, width in windows]
        shown.append(np.round(np.stack(channels)))
    return np.stack(shown).astype(np.uint8)


@pytest.fixture
def generator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), tmp_path / "ct.nii.gz")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    return tiny_generator(tmp_path)


@pytest.fixture
def seen(generator, monkeypatch):
    """The pixels that the model is shown from now on."""
    shown = []
    encode = generator.model.encode_with_patches

    def encode_and_remember(images):
        shown.extend(images.numpy())
        return encode(images)

    monkeypatch.setattr(generator.model, "encode_with_patches", encode_and_remember)
    return shown


def load(generator, rows, **options):
    with open("rows.json", "w") as file:
        json.dump(rows, file)
    dataset = chat_dataset(generator.tokenizer, source="rows.json", max_seq_len=200, **options)
    batch, bad = dataset.load(dataset.plan(shuffle=False), 0, len(rows), generator.preprocess.transform())
    assert [row.reason for row in bad] == []
    return dataset, batch


@pytest.mark.parametrize(("axis", "numbers"), [("axial", [1, 4, 6]), ("coronal", [0, 5]), ("sagittal", [7])])
def test_training_sees_the_slices_that_a_row_names(generator, axis, numbers):
    keys = {"frames": numbers, "axis": axis, "window": THREE}
    _, batch = load(generator, [{"image": "ct.nii.gz", **keys, "conversations": ANSWER}])
    assert np.array_equal(batch.images.numpy(), expected(axis, numbers))
    assert len(batch.image_positions) == NUM_IMAGE_TOKENS * len(numbers)


def test_a_row_goes_before_the_configuration_and_an_image_before_its_row(generator):
    view = {"frames": "2 even", "window": [40, 400]}
    images = [{"image": "ct.nii.gz", "frames": 3, "axis": "coronal"}, "ct.nii.gz", "a.png"]
    two = [{"from": "human", "value": "<image><image>What is shown?<image>"}, {"from": "gpt", "value": "Yes"}]
    parts = [{"type": "image", "image": "ct.nii.gz", "frames": [5]}, {"type": "text", "text": "\nWhere?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "No"}]
    rows = [{"images": images, "window": THREE, "conversations": two}, {"messages": messages}]
    _, batch = load(generator, rows, view=view)
    first = [expected("coronal", [3]), expected("axial", [2, 6])]
    last = expected("axial", [5], [(40.0, 400.0)] * 3)
    picture = np.broadcast_to(np.array([1, 2, 3], dtype=np.uint8)[None, :, None, None], (1, 3, 8, 8))
    assert np.array_equal(batch.images.numpy(), np.concatenate([*first, picture, last]))


def test_the_default_view_changes_nothing_and_another_one_the_fingerprint(generator):
    rows = [{"image": "ct.nii.gz", "conversations": ANSWER}]
    plain, _ = load(generator, rows)
    named, _ = load(generator, rows, view={"frames": "middle", "axis": "axial"})
    other, batch = load(generator, rows, view={"frames": "2 even", "window": THREE})
    assert plain.fingerprint == named.fingerprint != other.fingerprint
    assert [str(image) for image in plain.sample(0).images] == [str(generator.reader.resolve("ct.nii.gz"))]
    assert np.array_equal(batch.images.numpy(), expected("axial", [2, 6]))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"frames": [0, 8]}, "row 0: image .*ct.nii.gz has no frame 8: it has 8, numbered from 0"),
        ({"frames": 99}, "has no frame 99"),
        ({"window": [40, 0]}, r"row 0: window=\[40, 0\] must have a width above 0"),
        ({"axis": "up"}, "row 0: axis='up' must be one of"),
        ({"image": {"image": "ct.nii.gz", "frame": 1}}, "unknown key image.frame: did you mean image.frames"),
    ],
)
def test_a_bad_view_is_a_bad_row(generator, keys, words):
    with pytest.raises(UserError, match=words):
        load(generator, [{"image": "ct.nii.gz", "conversations": ANSWER, **keys}])


def test_sources_look_at_their_images_in_their_own_ways(generator):
    Path("rows.json").write_text(json.dumps([{"image": "ct.nii.gz", "conversations": ANSWER}]))
    sources = [{"source": "rows.json", "view": {"axis": "sagittal"}, "name": "own"}, {"source": "rows.json"}]
    dataset = chat_dataset(generator.tokenizer, sources=sources, max_seq_len=200, view={"frames": 2, "window": THREE})
    batch, _ = dataset.load(dataset.plan(shuffle=False), 0, 2, generator.preprocess.transform())
    assert np.array_equal(batch.images.numpy(), np.concatenate([expected("sagittal", [2]), expected("axial", [2])]))


@pytest.mark.slow
def test_generation_sees_them_too_and_a_bad_one_fails_alone(generator, seen):
    good = question_request(ImageRef("ct.nii.gz", View(THREE, "3 even", "coronal")), "Is there a circle?")
    bad = question_request(ImageRef("ct.nii.gz", View(THREE, (1, 8))), "Is there a circle?")
    answers = generator.generate([good, bad], Sampling(max_new_tokens=2))
    assert np.array_equal(np.stack(seen), expected("coronal", [1, 4, 6]))
    assert [answer.finish == "error" for answer in answers] == [False, True]
    assert "has no frame 8: it has 8" in answers[1].error


@pytest.mark.slow
def test_the_chat_shows_them_and_its_rows_train_again(generator, seen, monkeypatch, capsys):
    words = "ct.nii.gz frames=2even axis=sagittal window=-100,600/40,350/40,80 fit=pad"
    lines = [f"/image {words}", "Is there a circle?", "/image a.png", "And now?", "/save talk.json"]
    lines += ["/image ct.nii.gz frames=9", "/image ct.nii.gz window=40,0", "/image none.nii axis=axial"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    Chat(Sampling(max_new_tokens=4)).talk(generator)
    notes = capsys.readouterr().err
    assert "ct.nii.gz: 2 images of 8 x 8, shown with your next words" in notes
    assert "ct.nii.gz has no frame 9: it has 8" in notes
    assert "window=[40, 0] must have a width above 0" in notes
    assert "none.nii: there is no such file" in notes
    assert np.array_equal(np.stack(seen[:2]), expected("sagittal", [2, 6]))
    (row,) = json.loads(Path("talk.json").read_text())
    path = str(generator.reader.resolve("ct.nii.gz"))
    windows = [list(window) for window in THREE]
    assert row["image"][0] == {"image": path, "frames": "2 even", "axis": "sagittal", "window": windows, "fit": "pad"}
    assert row["image"][1] == str(generator.reader.resolve("a.png"))
    _, batch = load(generator, [row])
    assert np.array_equal(batch.images.numpy()[:2], expected("sagittal", [2, 6]))
    assert len(batch.images) == 3


def ask(generator, *parts, **limits):
    content = [*parts, {"type": "text", "text": "Is there a circle?"}]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    reader = ConversationReader(generator, Limits(**limits))
    (message,) = reader.read(read_chat_body(json.dumps(body).encode(), 9), "req-1")
    return message.content


def refused(generator, view, **limits):
    data = Path("ct.nii.gz").read_bytes()
    with pytest.raises(ApiError) as raised:
        ask(generator, {**image_part(data), "view": view}, **limits)
    assert raised.value.status == 400
    return raised.value.message


def test_a_request_names_slices_and_windows(generator):
    data = Path("ct.nii.gz").read_bytes()
    view = {"frames": [6, 0], "axis": "coronal", "window": THREE, "fit": "squash"}
    parts = ask(generator, {**image_part(data), "view": view}, image_part(data))
    assert [part["type"] for part in parts] == ["image", "image", "image", "text"]
    prepared = [part["content"] for part in parts[:3]]
    assert np.array_equal(np.stack([image.pixels for image in prepared[:2]]), expected("coronal", [6, 0]))
    assert prepared[2].key == hashlib.sha256(data).hexdigest()  # the default view is named as before
    assert len({image.key for image in prepared}) == 3


def test_a_request_with_a_bad_view_is_refused_in_plain_words(generator):
    where = "messages.0.content.0"
    assert refused(generator, {"window": [40, 0]}) == f"'{where}.view.window' must have a width above 0"
    assert f"'{where}.view.frames' must be middle, all" in refused(generator, {"frames": "some"})
    assert f"there is no field '{where}.view.frame'" in refused(generator, {"frame": 1})
    words = f"the image of '{where}.image_url.url' has no frame 8: it has 8, numbered from 0"
    assert refused(generator, {"frames": 8}) == refused(generator, {"frames": [1, 8]}) == words
    assert "offers no windows to choose from" in refused(generator, {"window": 1})
    assert refused(generator, {"frames": "all"}, max_images=7) == "there are 8 images; at most 7 are taken"
    assert refused(generator, {"frames": [0] * 9}, max_images=8) == "there are 9 images; at most 8 are taken"
    with pytest.raises(ApiError, match=f"'{where}' has a view, which only images have"):
        ask(generator, {"type": "text", "text": "a", "view": {"frames": 1}})

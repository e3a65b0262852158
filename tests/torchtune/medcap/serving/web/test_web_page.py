import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from helpers.serving import noise_png, running, tiny_service
from medcap.data.boxes.style import box_style
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.serving.routes import Keys
from medcap.serving.web.votes import VoteLog
from medcap.serving.web.web_page import MAX_EXAMPLES, MAX_PREVIEW, find_examples, page_routes

VOTE = {
    "vote": "best",
    "model": "second",
    "question": "What is it?",
    "images": [{"name": "a.png", "sha256": "0" * 64}],
    "turn": 1,
    "answers": {"tiny": "a lung", "second": "two lungs"},
    "settings": {"temperature": 0, "top_p": None, "system": ""},
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "examples").mkdir()
    (folder / "examples/b.png").write_bytes(noise_png(1, 300, 200))
    write_dicom(folder / "examples/a.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8))
    (folder / "examples/notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def client(workplace):
    """A page over three runs, that needs a key."""
    service = tiny_service(workplace, "tiny", "second", "cropping", max_pixels=4_000_000, max_body_bytes=2**20)
    service.runs["second"].generator.box_style = box_style({"box_format": "coloninst"})
    service.runs["cropping"].generator.box_style = box_style({"box_frame": "shown"}, Preprocess(8).frame)
    routes = page_routes(
        service, Keys(["secret"]), VoteLog(workplace / "votes.jsonl"), find_examples(workplace / "examples")
    )
    with running(service, ["secret"], routes=routes) as client:
        yield client


def post(client, path, body, **options):
    return client.request("POST", f"/page/{path}", body, **options)


def test_the_page_brings_all_that_it_names_and_nothing_from_elsewhere(client):
    page = client.request("GET", "/", headers={"Authorization": ""})
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    text = page.body.decode()
    assert re.findall(r'(?:href|src)="([^"]+)"', text) == ["data:,", "page/page.css", "page/page.js"]
    named = {"page/page.css", "page/page.js"}
    seen = set()
    while named - seen:
        path = (named - seen).pop()
        seen.add(path)
        reply = client.request("GET", f"/{path}", headers={"Authorization": ""})
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/css" if path.endswith("css") else "text/javascript")
        content = reply.body.decode()
        assert "://" not in content
        named |= {f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', content)}
    scripts = (
        "answering",
        "api",
        "conversation",
        "dom",
        "files",
        "marking",
        "marks",
        "masks",
        "page",
        "picture",
        "regions",
        "view",
        "volume",
        "votes",
    )
    assert seen == {"page/page.css", *(f"page/{name}.js" for name in scripts)}
    # Every element that a script asks for is there.
    for name in scripts:
        script = client.request("GET", f"/page/{name}.js").body.decode()
        assert set(re.findall(r'\$\("([\w]+)"\)', script)) <= set(re.findall(r'id="([\w]+)"', text))


def test_settings_name_runs_examples_and_limits(client):
    assert client.request("GET", "/page/settings").json == {
        "models": ["tiny", "second", "cropping"],
        "examples": ["a.dcm", "b.png"],
        "max_new_tokens": 32,
        "max_images": 8,
        "reads_regions": [],
    }


def test_examples_are_named_by_number(client, workplace):
    reply = client.request("GET", "/page/examples/1")
    assert reply.body == (workplace / "examples/b.png").read_bytes()
    thumbnail = Image.open(io.BytesIO(client.request("GET", "/page/examples/0/thumbnail").body))
    assert (thumbnail.format, thumbnail.size) == ("PNG", (8, 8))
    for path in ("2", "-1", "../votes.jsonl", "%2e%2e%2fvotes.jsonl", "99999999999999999999"):
        assert client.request("GET", f"/page/examples/{path}").status == 404


def test_a_preview_is_what_the_model_reads(client, workplace):
    data = (workplace / "examples/a.dcm").read_bytes()
    reply = post(client, "preview", data)
    picture = Image.open(io.BytesIO(reply.body))
    assert reply.headers["content-type"] == "image/png"
    assert (reply.headers["x-image-width"], reply.headers["x-image-height"]) == ("8", "8")
    assert reply.headers["x-image-sha256"] == hashlib.sha256(data).hexdigest()
    assert picture.getpixel((0, 0)) == (0, 0, 0) and picture.getpixel((7, 7)) == (255, 255, 255)


def volume_file(num_slices=4):
    """A NIfTI volume of 6 sagittal, 5 coronal and some axial slices, in which the k-th axial slice has value 60 k."""
    nibabel = pytest.importorskip("nibabel")
    values = np.broadcast_to(60 * np.arange(num_slices, dtype=np.int16), (6, 5, num_slices))
    return nibabel.Nifti1Image(values, np.eye(4)).to_bytes()


def middle_greys(reply):
    """The size of the first picture, and the grey in the middle of each."""
    found = json.loads(reply.body)
    addresses = [address.partition(",")[2] for address in found["pictures"]]
    pictures = [Image.open(io.BytesIO(base64.b64decode(address))) for address in addresses]
    assert pictures[0].size == (found["width"], found["height"])
    return pictures[0].size, [picture.getpixel((2, 1))[0] for picture in pictures]


def test_the_slices_of_a_volume_are_sent_along_an_axis_and_through_a_window(client, workplace):
    assert post(client, "preview", volume_file()).headers["x-image-has-slices"] == "1"
    reply = post(client, "slices?window=90,180", volume_file())
    assert {key: json.loads(reply.body)[key] for key in ("frames", "numbers")} == {"frames": 4, "numbers": [0, 1, 2, 3]}
    assert middle_greys(reply) == ((6, 5), [0, 85, 170, 255])
    # The third row of four from the top of a slice that stands upright is the second axial slice.
    reply = post(client, "slices?axis=coronal&window=90,180", volume_file())
    assert middle_greys(reply) == ((6, 4), [170] * 5)
    many = json.loads(post(client, "slices", volume_file(200)).body)
    assert (many["frames"], len(many["numbers"]), many["numbers"][:2], many["numbers"][-1]) == (200, 64, [1, 4], 198)
    one = json.loads(post(client, "slices", (workplace / "examples/a.dcm").read_bytes()).body)
    assert (one["frames"], one["numbers"], len(one["pictures"])) == (1, [0], 1)


@pytest.mark.parametrize(
    ("query", "part"),
    [("axis=oblique", "'axis' must be one of sagittal, coronal, axial"), ("window=40,0", "'window' must have a width")],
)
def test_an_impossible_axis_or_window_is_named(client, query, part):
    reply = post(client, f"slices?{query}", volume_file())
    assert reply.status == 400
    assert part in reply.error["message"]


def test_a_large_image_is_shown_smaller(client):
    file = io.BytesIO()
    Image.new("L", (2000, 1000), 9).save(file, "PNG")
    reply = post(client, "preview", file.getvalue())
    assert Image.open(io.BytesIO(reply.body)).size == (MAX_PREVIEW, MAX_PREVIEW // 2)
    assert (reply.headers["x-image-width"], reply.headers["x-image-height"]) == ("2000", "1000")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"<html>", 400, "invalid_image"),
        (noise_png(1)[:-40], 400, "invalid_image"),
        (b"", 400, "invalid_image"),
        (b"x" * (2**20 + 1), 413, "too_large"),
    ],
)
def test_something_that_is_not_an_image_is_refused(client, data, status, code):
    reply = post(client, "preview", data)
    assert (reply.status, reply.error["code"]) == (status, code)


def test_a_picture_of_too_many_pixels_is_refused_unseen(client):
    file = io.BytesIO()
    Image.new("L", (4000, 2000)).save(file, "PNG")
    assert post(client, "preview", file.getvalue()).error["code"] == "invalid_image"


def test_votes_are_kept(client, workplace):
    assert post(client, "votes", VOTE).status == 204
    assert post(client, "votes", {**VOTE, "vote": "down"}).status == 204
    rows = [json.loads(line) for line in (workplace / "votes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row.pop("time")[:2] for row in rows] == ["20", "20"]
    assert rows == [VOTE, {**VOTE, "vote": "down"}]


@pytest.mark.parametrize(
    "change",
    [
        {"vote": "maybe"},
        {"turn": 0},
        {"images": [{"name": "a", "sha256": "../../x"}]},
        {"answers": {"tiny": "x" * 100_001}},
        {"settings": {str(number): 1 for number in range(21)}},
        {"path": "/etc/passwd"},
    ],
)
def test_votes_of_another_form_are_refused(client, workplace, change):
    before = (workplace / "votes.jsonl").read_bytes()
    reply = post(client, "votes", {**VOTE, **change})
    assert reply.status == 400 and next(iter(change)) in reply.error["message"]
    assert (workplace / "votes.jsonl").read_bytes() == before


def test_boxes_in_an_answer_are_found_in_the_notation_of_its_run(client):
    text = "<ref>liver</ref><box>(100,200),(300,400)</box> {<10><20><30><40>} [0.1, 0.2, 0.3, 0.4]"
    asked = {"model": "tiny", "text": text, "width": 100, "height": 100}
    liver, plain = ({"box": [0.1, 0.2, 0.3, 0.4], "label": label} for label in ("liver", ""))
    assert post(client, "regions", asked).json == {"regions": [liver, plain, plain]}
    assert post(client, "regions", {**asked, "model": "second"}).json == {"regions": [plain]}
    assert post(client, "regions", {**asked, "model": "third"}).status == 404
    assert post(client, "regions", {**asked, "width": 0}).status == 400
    assert post(client, "regions", b"[" * 100_000).status == 400


def test_a_drawn_box_is_written_in_the_notation_of_each_run(client):
    drawn = {"box": [0.1, 0.25, 0.5, 1], "width": 200, "height": 100}
    asked = {"models": ["tiny", "second"], "text": "What is in {box 1}?", "boxes": [drawn]}
    assert post(client, "boxes", asked).json == {
        "words": {"tiny": "What is in [100, 250, 500, 999]?", "second": "What is in {<20><25><100><100>}?"}
    }
    assert post(client, "boxes", {**asked, "models": ["third"]}).status == 404
    reply = post(client, "boxes", {**asked, "text": "{box 2}"})
    assert (reply.status, reply.error["message"]) == (
        400,
        "{box 2} names a box that does not exist: 1 were given",
    )


@pytest.mark.parametrize(
    "box", [[0, 0, 1], [0.5, 0, 0.5, 1], [0, 1, 1, 0.5], [-0.1, 0, 1, 1], [0, 0, 1.1, 1], ["0", 0, 1, 1]]
)
def test_a_drawn_box_that_is_none_is_refused(client, box):
    asked = {"models": ["tiny"], "text": "", "boxes": [{"box": box, "width": 9, "height": 9}]}
    reply = post(client, "boxes", asked)
    assert reply.status == 400 and "boxes" in reply.error["message"]


def test_a_drawn_box_that_a_tower_cuts_off_is_named(client):
    drawn = {"box": [0, 0, 0.1, 1], "width": 200, "height": 100}
    reply = post(client, "boxes", {"models": ["tiny", "third"], "text": "", "boxes": [drawn]})
    assert reply.status == 404
    reply = post(client, "boxes", {"models": ["cropping"], "text": "What?", "boxes": [drawn]})
    assert (reply.status, reply.error["message"]) == (
        400,
        "cropping is not shown the part of the image that box 1 is on: its tower cuts it off",
    )


@pytest.mark.parametrize(
    "path", ["settings", "examples/0", "examples/0/thumbnail", "preview", "slices", "votes", "regions", "boxes"]
)
def test_what_the_page_asks_for_needs_the_key(client, path):
    method = "GET" if path == "settings" or path.startswith("examples") else "POST"
    assert client.request(method, f"/page/{path}", headers={"Authorization": "Bearer wrong"}).status == 401
    assert client.request(method, f"/page/{path}", headers={"Authorization": ""}).status == 401


def test_pages_of_other_sites_may_not_vote(client):
    reply = post(client, "votes", VOTE, headers={"Origin": "https://elsewhere.example"})
    assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed")


def test_examples_are_the_images_of_a_folder(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        find_examples(tmp_path / "none")
    with pytest.raises(UserError, match="holds no image"):
        find_examples(tmp_path)
    for number in range(MAX_EXAMPLES + 3):
        (tmp_path / f"{number:02}.PNG").touch()
    assert [path.name for path in find_examples(tmp_path)] == [f"{number:02}.PNG" for number in range(MAX_EXAMPLES)]

"""Regions of questions: under their field and in MedPLIB's tags, as placeholders; what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.tokenizers import tiny_tokenizer_file
from medcap.data.added_tokens import AddedTokens
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.data.regions.patch_weights import RegionForm
from medcap.data.regions.region import BoxShape, MaskFile, Region, region_from_json, regions_as_json
from medcap.data.regions.run_length import decode, encode
from medcap.data.regions.scale import scale_region
from medcap.data.row_layouts import read_record
from medcap.data.row_regions import place_regions, regions_of
from medcap.data.samples import tokenize_record
from medcap.data.shared_prefix import find_prompt_prefix
from medcap.errors import UserError
from medcap.models.tokenizers import llama3_tokenizer

BOX, OTHER = Region(BoxShape((1.0, 2.0, 3.0, 4.0))), Region(BoxShape((5.0, 6.0, 7.0, 8.0)))


def placed(*questions, images=("a.png",), **fields):
    turns = []
    for number, question in enumerate(questions):
        shown = "<image>" * len(images) if number == 0 else ""
        turns += [{"from": "human", "value": shown + question}, {"from": "gpt", "value": "A <region>."}]
    row = {"image": list(images), "conversations": turns, **fields}
    record = read_record(row, Path("rows.json"), 0, lambda image, folder: image)
    return place_regions(row, record, lambda path: Path("/data") / path)


def test_regions_of_a_row_stand_in_its_questions_in_order():
    record = placed(
        "Is <region></region> like <region></region>?",
        "And <region> </region>?",
        regions=[[1, 2, 3, 4], {"mask": "m/a.png"}, [5, 6, 7, 8]],
    )
    assert regions_of(record.messages) == [BOX, Region(MaskFile("/data/m/a.png")), OTHER]
    first = record.messages[0].content
    assert [part["content"] for part in first if part["type"] != "image"] == [
        "Is ",
        BOX,
        " like ",
        Region(MaskFile("/data/m/a.png")),
        "?",
    ]
    assert record.messages[1].text_content == "A <region>."


def test_medplibs_file_names_are_the_regions_of_the_image_before_them():
    record = placed("What is <region> m/a.png</region>?", images=("a.png", "b.png"))
    assert regions_of(record.messages) == [Region(MaskFile("/data/m/a.png"), image=1)]


def test_words_between_the_words_are_left_alone():
    record = placed("What is <region>the left lung</region>?")
    assert regions_of(record.messages) == []
    assert record.messages[0].text_content == "What is <region>the left lung</region>?"


@pytest.mark.parametrize(
    ("question", "images", "fields", "message"),
    [
        ("<region></region>?", 1, {}, "1 <region></region> in its questions but 0 regions under 'regions'"),
        (
            "<region></region>?",
            1,
            {"regions": [[1, 2, 3, 4]] * 2},
            "1 <region></region> in its questions but 2 regions",
        ),
        ("<region></region>?", 1, {"regions": [None]}, "'regions' holds None: a region is"),
        ("<region></region>?", 1, {"regions": [[3, 2, 1, 4]]}, "has no area"),
        ("<region></region>?", 0, {"regions": [[1, 2, 3, 4]]}, "region on image 0, but the row has no image"),
        (
            "<region></region>?",
            1,
            {"regions": [{"box": [1, 2, 3, 4], "image": 1}]},
            "region on image 1, but the row has 1 image, numbered from 0",
        ),
        ("what?", 1, {"regions": [[1, 2, 3, 4]]}, "it has 'regions' but no <region></region> in its questions"),
        ("<region>a.png</region>", 1, {"regions": [[1, 2, 3, 4]]}, "give them in one of the ways"),
        ("<region>a.png</region> <region></region>", 1, {}, "one of several <region></region> holds no file"),
        ("<region>a.png</region>" * 101, 1, {}, "101 regions, more than 100"),
    ],
)
def test_what_does_not_belong_together_is_refused(question, images, fields, message):
    with pytest.raises(UserError, match=message):
        placed(question, images=("a.png",) * images, **fields)


def test_a_region_in_an_answer_is_refused():
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "<region></region>"}]
    row = {"image": "a.png", "conversations": turns, "regions": [[1, 2, 3, 4]]}
    record = read_record(row, Path("rows.json"), 0, lambda image, folder: image)
    with pytest.raises(UserError, match="an answer holds <region></region>, which only a question can name"):
        place_regions(row, record, Path)


def test_a_path_without_an_ending_between_the_words_is_a_file():
    record = placed("What is <region>masks/passwd</region>?")
    assert regions_of(record.messages) == [Region(MaskFile("/data/masks/passwd"))]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return str(tiny_tokenizer_file(tmp_path_factory.mktemp("tokenizer")))


def tokenizer(words, num_tokens=2, added=True):
    base = llama3_tokenizer(words)
    rows = ChatTokenizer(llama3_tokenizer(words), 3).vocab_size
    form = RegionForm(num_tokens, 2)
    return ChatTokenizer(base, 3, AddedTokens(("<region>", "</region>"), rows, regions=form) if added else None)


def test_a_region_is_its_placeholders_between_the_words(words):
    chat = tokenizer(words)
    rows, image = chat.added.first_id, chat.image_token_id
    record = placed("What is <region></region><region></region>?", regions=[[1, 2, 3, 4], [5, 6, 7, 8]])
    sample = tokenize_record(record, "row", chat, 200, LabelRules())
    tokens = sample.tokens.tolist()
    assert chat.region_token_id == rows + 3
    first = tokens.index(rows)
    region = chat.region_token_id
    assert tokens[first : first + 8] == [rows, region, region, rows + 1, rows, region, region, rows + 1]
    assert [(one.position, one.region, one.image) for one in sample.regions] == [
        (first + 1, BOX, 0),
        (first + 5, OTHER, 0),
    ]
    assert not {region, image} & set(sample.targets.tolist())
    assert chat.placeholders == {image, region}
    assert chat.prompt(record.messages[:1]).regions == [BOX, OTHER]
    assert chat.fingerprint != tokenizer(words, 3).fingerprint
    # The words alone, in a question without regions, are text.
    assert region not in chat.prompt(placed("Is <region>it</region> there?").messages[:1]).tokens


def test_a_region_that_is_cut_or_that_nothing_reads_makes_a_bad_row(words):
    record = placed("What is it? " * 9 + "<region></region>?", regions=[[1, 2, 3, 4]])
    chat = tokenizer(words)
    whole = tokenize_record(record, "row", chat, 400, LabelRules())
    cut = whole.regions[0].position + 1
    with pytest.raises(UserError, match=f"max_seq_len={cut + 1} cuts a region: its tokens end at {cut + 1}"):
        tokenize_record(record, "row", chat, cut + 1, LabelRules())
    with pytest.raises(UserError, match="name 1 region, but the model reads none: add region_encoder"):
        tokenize_record(record, "row", tokenizer(words, added=False), 400, LabelRules())
    with pytest.raises(UserError, match="name 1 region"):
        chat.without_added.prompt(record.messages[:1])


def test_turns_after_the_last_learnt_one_take_their_regions_along(words):
    record = placed("What is <region></region>?", "And <region></region>?", regions=[[1, 2, 3, 4], [5, 6, 7, 8]])
    cut = replace(record, messages=record.messages[:3])
    sample = tokenize_record(cut, "row", tokenizer(words), 400, LabelRules())
    assert [one.region for one in sample.regions] == [BOX]


def test_the_shared_prompt_prefix_ends_before_a_region(words):
    chat = tokenizer(words)
    samples = []
    for box in ([1, 2, 3, 4], [5, 6, 7, 8]):
        row = {"image": "a.png", "regions": [box]}
        row["conversations"] = [
            {"from": "human", "value": "In <region></region>, what is it?<image>"},
            {"from": "gpt", "value": "A lung."},
        ]
        record = read_record(row, Path("rows.json"), 0, lambda image, folder: image)
        record = place_regions(row, record, Path)
        samples.append(tokenize_record(record, "row", chat, 400, LabelRules()))
    prefix = find_prompt_prefix(samples, chat.image_token_id)
    assert len(prefix) == samples[0].regions[0].position and prefix[-1] == chat.added.first_id


def test_a_region_covers_the_same_share_of_an_image_of_another_size():
    assert scale_region(BOX, (10, 10), (20, 5)) == Region(BoxShape((2.0, 1.0, 6.0, 2.0)))
    mask = np.zeros((4, 6), bool)
    mask[1:3, 3:] = True
    run_length = encode(mask)
    (scaled,) = regions_as_json([scale_region(region_from_json(run_length), (6, 4), (12, 8))])
    assert np.array_equal(decode(scaled["mask"]), mask.repeat(2, 0).repeat(2, 1))

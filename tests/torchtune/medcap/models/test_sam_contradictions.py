"""Folders of SAM whose descriptions contradict themselves end in one line, before weights are read."""

import json

import pytest

from helpers.sam_folders import write_sam, write_sam2
from medcap.errors import UserError
from medcap.models.mask_decoders.sam_files import open_sam_folder
from medcap.models.mask_decoders.sam_model import check_sam, read_sam

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {"sam": tmp_path_factory.mktemp("sam"), "sam2": tmp_path_factory.mktemp("sam2")}
    write_sam(found["sam"])
    write_sam2(found["sam2"])
    return found


def changed(folder, file, change):
    """Change a description, and put it back."""
    path = folder / file
    before = path.read_text()
    settings = json.loads(before)
    change(settings)
    path.write_text(json.dumps(settings))
    return lambda: path.write_text(before)


@pytest.mark.parametrize(
    ("kind", "part", "key", "value", "reason"),
    [
        ("sam", "vision_config", "patch_size", 0, "ZeroDivisionError"),
        ("sam", "vision_config", "hidden_act", "nothing", "KeyError: 'nothing'"),
        ("sam", "vision_config", "hidden_size", "x", "expected int, got str"),
        ("sam", "mask_decoder_config", "num_attention_heads", 5, "must divide hidden_size"),
        # The shapes of the weights fit: only computing shows it.
        ("sam", "prompt_encoder_config", "image_embedding_size", 5, "Error: "),
        ("sam2", "vision_config", "backbone_feature_sizes", [[8, 8], [4, 4], [3, 3]], "Error: "),
        ("sam2", "mask_decoder_config", "num_attention_heads", 5, "Error: "),
    ],
)
def test_numbers_that_do_not_fit_each_other(folders, kind, part, key, value, reason):
    folder = folders[kind]
    restore = changed(folder, "config.json", lambda settings: settings[part].update({key: value}))
    try:
        for look in (check_sam, read_sam):
            with pytest.raises(UserError, match=r"config.json contradicts itself or is damaged \(.*download") as raised:
                look(open_sam_folder(folder, "mask_from_boxes"))
            assert reason in str(raised.value) and "\n" not in str(raised.value)
    finally:
        restore()
    assert check_sam(open_sam_folder(folder, "mask_from_boxes")).width == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"longest_edge": [32, 32]}}, "it makes pictures of"),
        ({"size": {}, "pad_size": {}}, "it makes pictures of"),
        ({"resample": [2]}, "is neither 2"),
        ({"image_processor": "none"}, "'image_processor' is damaged"),
    ],
)
def test_descriptions_of_pictures_of_another_kind(folders, change, message):
    restore = changed(folders["sam"], "preprocessor_config.json", lambda settings: settings.update(change))
    try:
        with pytest.raises(UserError, match=f"preprocessor_config.json: .*{message}"):
            open_sam_folder(folders["sam"], "mask_from_boxes")
    finally:
        restore()

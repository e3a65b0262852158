from helpers.downloads import Downloads
from medcap.datasets.conversion.captions import json_captions
from medcap.datasets.conversion.example import Tally
from medcap.datasets.conversion.instructions import DESCRIBE


def test_fields_of_either_name_in_either_kind_of_file(tmp_path):
    downloads = Downloads(tmp_path)
    rows = [{"picture": "a.png", "words": " A. "}, {"picture": "b.png"}]
    for file in (downloads.array("a.json", rows), downloads.lines("a.jsonl", rows)):
        tally = Tally()
        ((location, example),) = json_captions(str(file), "d", "picture", "words")(tally)
        assert location == f"{file}, row 0"
        assert (example.turns, example.images, example.folder) == ([("", "A.")], ("a.png",), "d")
        assert example.prompts is DESCRIBE
        assert (tally.read, tally.skipped) == (2, {"there is no 'words'": 1})

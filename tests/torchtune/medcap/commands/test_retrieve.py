import json

import numpy as np
import pytest
from PIL import Image

from helpers.workspace import Workspace
from medcap import cli
from medcap.probe.encoders import load_encoders

pytestmark = pytest.mark.slow

SIDE = 32


def picture(seed, size=(SIDE, SIDE)):
    """A smooth picture, the same for one seed."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Pictures with masks: 0 and 1 are of one patient, and copy.png has the bytes of 0.png."""
    folder = tmp_path_factory.mktemp("retrieve")
    for number in range(6):
        picture(number).save(folder / f"{number}.png")
        Image.new("L", (SIDE, SIDE), 1).save(folder / f"{number}_mask.png")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    near = np.asarray(picture(0)).astype(np.int16) + 6
    Image.fromarray(np.clip(near, 0, 255).astype(np.uint8)).save(folder / "1.png")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = [
        {"image": f"{it}.png", "mask": f"{it}_mask.png", "patient": f"p{max(it, 1)}", "organ": "ab"[it % 2]}
        for it in range(6)
    ]
    rows.append({"image": "copy.png", "mask": "0_mask.png", "patient": "p9", "organ": "a"})
    rows.append({"image": "damaged.png", "mask": "0_mask.png", "patient": "p10", "organ": "a"})
    (folder / "rows.json").write_text(json.dumps(rows))
    retrieve("build", folder / "rows.json", "--tower", "tiny", "--index", folder / "index", "--keep", "organ")
    return folder


def retrieve(*arguments):
    assert cli.main(["retrieve", *map(str, arguments)]) == 0


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["retrieve", *map(str, arguments)])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def augment(workplace, out, *arguments):
    source = workplace / "rows.json"
    retrieve("augment", source, "--index", workplace / "index", "--out", out, *arguments)
    text = out.read_text()
    return [json.loads(line) for line in text.splitlines()] if out.suffix == ".jsonl" else json.loads(text)


def chosen(row):
    return [example["image"] for example in row["icl_examples"]]


def similarities(workplace):
    """Cosines between the pictures 0 to 5, from the tower directly."""
    encoder = load_encoders("tiny", "patches", "none").after
    transform = encoder.preprocess.transform()
    pixels = [transform(Image.open(workplace / f"{number}.png").convert("RGB")) for number in range(6)]
    features = np.concatenate([encoder(one[None]).numpy() for one in pixels]).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features @ features.T, features


def test_an_index_holds_unit_features_of_every_readable_image(workplace):
    embeddings = np.load(workplace / "index/embeddings.npy")
    _, features = similarities(workplace)
    assert embeddings.shape == (7, 96) and embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings[:6], features, atol=2e-6)
    facts = json.loads((workplace / "index/index.json").read_text())
    assert (facts["candidates"], facts["images"], facts["failures"]) == (7, 7, 1)
    assert facts["tower"]["name"] == "tiny" and len(facts["tower"]["fingerprint"]) == 64
    failure = json.loads((workplace / "index/failures.jsonl").read_text())
    assert failure["name"].endswith("damaged.png") and "is not a readable image" in failure["reason"]


def test_a_row_gets_the_nearest_others_and_never_itself_or_its_copy(workplace, capsys):
    rows = augment(workplace, workplace / "out.jsonl")
    cosine, _ = similarities(workplace)
    for number in range(6):
        others = [other for other in np.argsort(-cosine[number], kind="stable").tolist() if other != number]
        expected = [f"{other}.png" for other in others]
        if number:  # copy.png is as near as 0.png, and comes after it in the index
            expected.insert(expected.index("0.png") + 1, "copy.png")
        assert chosen(rows[number]) == expected[:3]
    assert "0.png" not in chosen(rows[6]) and chosen(rows[6])[0] == "1.png"
    assert rows[0] == {
        "image": "0.png",
        "patient": "p1",
        "organ": "a",
        "target_mask": "0_mask.png",
        "icl_examples": [{"image": name, "mask": name.replace(".", "_mask.")} for name in chosen(rows[0])],
    }
    # The row of the damaged image is there as it was, and named.
    assert len(rows) == 8 and rows[7]["mask"] == "0_mask.png" and "icl_examples" not in rows[7]
    assert json.loads((workplace / "out_failures.jsonl").read_text())["name"].endswith("rows.json, row 7")
    assert "1 written as they were; all of them are in" in capsys.readouterr().err


def test_the_patient_and_other_organs_are_left_out_on_request(workplace):
    plain, apart = (augment(workplace, workplace / "p.json", *words) for words in ((), ("--exclude-patient",)))
    assert "1.png" in chosen(plain[0]) and "1.png" not in chosen(apart[0]) and len(chosen(apart[0])) == 3
    same = augment(workplace, workplace / "s.json", "--same", "organ", "--top-k", "2", "--exclude-patient")
    assert chosen(same[1]) == [name for name in chosen(same[1]) if name in ("3.png", "5.png")]
    assert len(chosen(same[1])) == 2


def test_paths_are_found_from_the_output_s_place(workplace, tmp_path, capsys):
    rows = augment(workplace, tmp_path / "out.json", "--top-k", "1")
    assert rows[2]["image"] == f"{workplace}/2.png" and rows[2]["target_mask"] == f"{workplace}/2_mask.png"
    assert chosen(rows[2])[0].startswith(f"{workplace}/")
    assert f"add {workplace} to dataset.image_roots" in capsys.readouterr().err
    home = tmp_path / "home"
    (home / "set").mkdir(parents=True)
    for name in ("0", "1"):
        picture(int(name)).save(home / "set" / f"{name}.png")
        Image.new("L", (SIDE, SIDE), 1).save(home / "set" / f"{name}_mask.png")
    turns = [{"from": "human", "value": "Outline it."}, {"from": "gpt", "value": "<SEG><mask>0_mask.png</mask>"}]
    row = {"image": "0.png", "conversations": turns, "regions": [{"mask": "1_mask.png"}, [0, 0, 2, 2]]}
    (home / "set/rows.json").write_text(json.dumps([row, {"image": "1.png", "masks": ["1_mask.png"]}]))
    retrieve("build", home / "set/rows.json", "--tower", "tiny", "--index", home / "set/index")
    retrieve("augment", home / "set/rows.json", "--index", home / "set/index", "--out", home / "rows.json")
    first, second = json.loads((home / "rows.json").read_text())
    assert first["image"] == "set/0.png" and first["regions"] == [{"mask": "set/1_mask.png"}, [0, 0, 2, 2]]
    assert first["conversations"][1]["value"] == "<SEG><mask>set/0_mask.png</mask>"
    assert first["icl_examples"] == [{"image": "set/1.png", "mask": "set/1_mask.png"}]
    assert second["masks"] == ["set/1_mask.png"]


def test_another_tower_is_refused_and_a_run_is_one(workplace, tmp_path, capsys):
    workspace = Workspace(tmp_path)
    run = workspace.train()
    words = ("augment", workplace / "rows.json", "--index", workplace / "index", "--out", tmp_path / "out.json")
    message = refused(capsys, *words, "--tower", run)
    assert "was made by tiny with other weights or another preprocessing than" in message
    assert not (tmp_path / "out.json").exists()
    retrieve("build", workplace / "rows.json", "--tower", run, "--index", tmp_path / "index")
    words = ("augment", workplace / "rows.json", "--index", tmp_path / "index", "--out", tmp_path / "out.json")
    retrieve(*words)
    assert len(json.loads((tmp_path / "out.json").read_text())[0]["icl_examples"]) == 3


def test_what_cannot_be_done_is_one_line(workplace, tmp_path, capsys):
    source, index = workplace / "rows.json", workplace / "index"
    out = ("--out", tmp_path / "out.json")
    assert "must end in .json or .jsonl" in refused(
        capsys, "augment", source, "--index", index, "--out", tmp_path / "out.txt"
    )
    assert "has no index.json" in refused(capsys, "augment", source, "--index", workplace, *out)
    before = source.read_bytes()
    assert "would replace the file that is read" in refused(
        capsys, "augment", source, "--index", index, "--out", source
    )
    build = ("build", source, "--index", tmp_path / "new")
    assert "--keep organs: no row of" in refused(capsys, *build, "--tower", "tiny", "--keep", "organs")
    assert "medcap: --tower nope is unknown: give biomedclip" in refused(capsys, *build, "--tower", "nope")
    assert "--index: the folder" in refused(capsys, "build", source, "--tower", "tiny", "--index", source)
    words = ("build", source, "--tower", "tiny", "--index", workplace)
    assert "holds files that are not of an index: name a new or empty folder" in refused(capsys, *words)
    assert source.read_bytes() == before
    assert "--same side: index" in refused(capsys, "augment", source, "--index", index, *out, "--same", "side")
    (tmp_path / "rows.json").write_text(json.dumps([{"image": str(workplace / "0.png")}]))
    words = ("augment", tmp_path / "rows.json", "--index", index, *out, "--image-root", workplace)
    assert "row 0 has no 'patient' (--patient-key names the key)" in refused(capsys, *words, "--exclude-patient")
    retrieve("build", source, "--tower", "tiny", "--index", tmp_path / "other", "--patient-key", "case")
    words = ("augment", source, "--index", tmp_path / "other", *out, "--exclude-patient")
    assert "has candidates without a patient: build it from rows with 'patient'" in refused(capsys, *words)

from helpers.downloads import Downloads, left_out, rows_of, said
from medcap.datasets.converters.radrestruct import RadReStruct

TOP = "Rad-ReStruct/data/radrestruct"
YES_NO = {"answer_type": "single_choice", "options": ["yes", "no"]}


def test_a_topic_of_a_report_is_a_conversation_about_each_image(tmp_path):
    downloads = Downloads(tmp_path / "datasets")
    downloads.images(f"{TOP}/images", "CXR1_a.png", "CXR1_b.png")
    downloads.array(
        f"{TOP}/id_to_img_mapping_frontal_reports.json", {"1": ["CXR1_a", "CXR1_b"], "2": ["CXR2_a"], "3": []}
    )
    signs, finding = "Are there any signs?", "Is there a mass?"
    topics = [
        [signs, ["yes"], [], YES_NO | {"path": "lung_signs"}],
        [finding, ["no"], [[signs, ["yes"]]], YES_NO | {"path": "lung_signs_mass"}],
        ["Are there any diseases?", ["no"], [], YES_NO | {"path": "lung_diseases"}],
    ]
    downloads.array(f"{TOP}/train_qa_pairs/1.json", topics)
    for report in ("2", "3"):
        downloads.array(f"{TOP}/train_qa_pairs/{report}.json", topics[:1])
    downloads.array(f"{TOP}/train_qa_pairs/4.json", [["Is it?"]])
    (written,) = downloads.convert(RadReStruct())
    first, second, third, fourth = rows_of(written)
    assert written.path.name == "radrestruct_train.jsonl"
    assert said(first) == [f"<image>\n\n{signs}", "yes", finding, "no"]
    assert said(second) == ["<image>\n\nAre there any diseases?", "no"]
    assert [row["image"] for row in (first, second, third, fourth)] == ["CXR1_a.png"] * 2 + ["CXR1_b.png"] * 2
    assert first["patient"] == "1"
    assert left_out(written) == {
        "the image is missing": 1,
        "no image of the report is known": 1,
        "not a question with answers, history and options": 1,
    }

from medcap.datasets.sharegpt import caption_row


def test_the_published_row():
    assert caption_row("x.jpg", "lesion ① seen", "./d") == {
        "conversations": [{"from": "human", "value": "①" * 50}, {"from": "gpt", "value": "lesion (1) seen"}],
        "image": "x.jpg",
        "meta": "dir=./d",
    }

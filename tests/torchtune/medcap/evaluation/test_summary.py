from medcap.evaluation.summary import leaves, summary, value_at

INTERVAL = {"low": 0.4, "high": 0.6, "level": 0.95, "draws": 10_000}
SCORES = {"open": {"recall": 0.5, "f1": None}, "closed": {"accuracy": 1.0}}
METRICS = {
    "task": "vqarad",
    "n": 451,
    "failures": 3,
    "notices": ["read 450 rows; the published test set has 451"],
    "protocols": {
        "llava_med": {
            "asked": "no_cond_desc",
            "headline": "open.recall",
            "scores": SCORES,
            "intervals": {"open": {"recall": INTERVAL}},
            "controls": {
                "shuffled_image": {"scores": {"open": {"recall": 0.25}, "closed": {"accuracy": 0.125}}},
                "no_image": {"scores": {}},
            },
            "notices": ["rows with several references"],
        },
        "option_text": {
            "asked": "option_text",
            "headline": "accuracy",
            "scores": {"accuracy": 0.75},
            "intervals": {},
            "controls": {},
            "notices": ["rows with several references"],
        },
        "exact": {
            "asked": "direct",
            "headline": "accuracy",
            "scores": {"accuracy": 0.75},
            "intervals": {},
            "controls": {"mirrored": {"scores": {"accuracy": 0.0}}},
            "image_reliance": {"visual_reliance_score": {"value": -0.09, "low": -0.12, "high": -0.06}},
            "notices": [],
        },
    },
}


def test_lines_of_a_task():
    assert summary(METRICS).splitlines() == [
        "vqarad: 451 rows, 3 failures",
        "  llava_med, asked by no_cond_desc",
        "    open.recall              0.5000  [0.4000, 0.6000]  images shuffled 0.2500",
        "    open.f1                  -",
        "    closed.accuracy          1.0000",
        "  option_text",
        "    accuracy                 0.7500",
        "  exact",
        "    accuracy                 0.7500  mirrored 0.0000",
        "    visual reliance score              -0.0900  [-0.1200, -0.0600]",
        "  note: read 450 rows; the published test set has 451",
        "  note: rows with several references",
    ]


def test_dotted_names():
    assert list(leaves(SCORES)) == [("open.recall", 0.5), ("open.f1", None), ("closed.accuracy", 1.0)]
    assert value_at(SCORES, "open.recall") == 0.5
    assert value_at(SCORES, "closed") == {"accuracy": 1.0}
    assert [value_at(SCORES, name) for name in ("open.bleu", "text.f1", "open.recall.low")] == [None, None, None]

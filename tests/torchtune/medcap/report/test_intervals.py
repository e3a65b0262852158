from medcap.report.intervals import between
from medcap.report.protocol_table import ProtocolLine
from medcap.report.sections import Bar


def test_ends_or_why_there_are_none():
    assert between(0.25, 0.5, "{:.2f}".format, " – ") == "0.25 – 0.50"
    assert between(None, None, "{:.2f}".format) == "no interval: one image"


def test_a_bar_without_an_interval_says_so_and_is_drawn_at_its_value():
    bar = Bar(0.5, None, None)
    assert (bar.text, bar.between, bar.drawn) == ("50.0 %", "no interval: one image", (50.0, 50.0, 50.0))


def test_a_fall_without_an_interval_proves_nothing():
    line = ProtocolLine("masks", "mean_dice", 0.6, controls={"no_image": 0.1}, falls={"no_image": (0.5, None, None)})
    assert line.fall("no_image") == ("stays", "no proven fall: 50.0 (no interval: one image)")

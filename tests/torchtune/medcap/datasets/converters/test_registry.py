from medcap.datasets.converters.registry import CONVERTERS


def test_each_says_what_it_converts_and_what_to_download():
    for name, converter in CONVERTERS.items():
        assert converter.name == name
        assert converter.converts
        assert converter.download

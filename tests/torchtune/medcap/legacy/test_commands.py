import pytest

from medcap.entry_point import read_arguments
from medcap.legacy.commands import with_unpacked_samples
from medcap.training.keys import TrainingConfiguration

OLD_NAME = "dataset._component_=torchtune.datasets.chat_dataset"


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["batch_size=4", OLD_NAME], ["dataset.packed=false"]),
        ([OLD_NAME, "dataset.packed=true"], []),
        (["batch_size=4", "dataset._component_=medcap.datasets.chat_dataset"], []),
    ],
)
def test_the_old_name_of_the_dataset_means_samples(words, added):
    assert with_unpacked_samples(words) == words + added


@pytest.mark.parametrize(("words", "packed"), [([], True), ([OLD_NAME], False)])
def test_a_shipped_configuration_is_packed_and_a_command_of_medcap_2024_is_not(words, packed):
    config = ["--config", "medcap/llama3_1/8B_biomedclip_single_device"]
    cfg = read_arguments([*config, "batch_size=4", *words], TrainingConfiguration)
    assert cfg.dataset["packed"] is packed
    assert (cfg.batch_size, cfg.compile) == (4, None)

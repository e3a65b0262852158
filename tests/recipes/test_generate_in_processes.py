"""Generation and judging by several processes: the files are those of one."""

import shutil
import signal

import pytest

from helpers.workspace import Workspace
from medcap.datasets.phantoms.benchmarks import write_phantom_benchmarks

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("processes"))
    write_phantom_benchmarks(workspace.folder / "data", 4, seed=1)
    workspace.train("epochs=3")
    return workspace


def start(server, workspace, *overrides, processes, module="medcap.recipes.generate"):
    words = [
        *("--config", "medcap/tiny/generation", *workspace.model_overrides(), "max_new_tokens=5"),
        *(f"vision_checkpoint={workspace.folder}/run", f"output_dir={workspace.folder}/out", "batch_size=4"),
        # Images are described, then asked about; then the option is asked for.
        *("test_omnimedvqa=True", "test_slake=True", "vqa_type=no_cond_desc", "limit=9", "controls=[no_image]"),
        *(f"dataset_source={workspace.folder}/data", "modalities=all"),
        *overrides,
    ]
    return server.start(workspace.folder / "logs", words, processes, module=module)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def of_one(trained, server):
    run = start(server, trained, processes=1)
    assert run.wait() == [0], run.printed()
    (trained.folder / "out").rename(trained.folder / "one")
    return files(trained.folder / "one")


@pytest.fixture(autouse=True)
def nothing_there(trained):
    shutil.rmtree(trained.folder / "out", ignore_errors=True)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_files_of_one(trained, server, of_one, processes):
    run = start(server, trained, processes=processes)
    assert run.wait() == [0] * processes, run.printed()
    assert {"omnimedvqa/descriptions.jsonl", "omnimedvqa/predictions_mapped_option_no_image.jsonl"} < of_one.keys()
    assert {"omnimedvqa/report.html", "slake/metrics.json", "results.csv"} < of_one.keys()
    found = files(trained.folder / "out")
    assert found.keys() == of_one.keys()
    assert [name for name in found if found[name] != of_one[name]] == []
    assert [run.printed(rank) for rank in range(1, processes)] == [""] * (processes - 1)


def test_a_run_whose_process_was_killed_goes_on_and_writes_the_files_of_one(trained, server, of_one):
    run = start(server, trained, processes=2, module="helpers.killed_answers")
    assert run.wait_as_torchrun() == [-signal.SIGTERM, -signal.SIGKILL]
    (part,) = trained.folder.glob("out/*/*.part_1.jsonl")
    assert part.read_text()
    assert start(server, trained, processes=3).wait() == [0, 0, 0]
    assert files(trained.folder / "out") == of_one


def test_a_mistake_is_one_line_of_one_process(trained, server):
    run = start(server, trained, "dataset_source=nowhere.json", processes=2)
    assert 2 in run.wait_as_torchrun()
    lines = [line for rank in range(2) for line in run.printed(rank).splitlines()]
    assert len(lines) == 1
    assert lines[0].startswith("medcap: dataset_source: nowhere.json does not exist;")

import multiprocessing
import pickle
import threading

import nibabel
import numpy as np
import pytest

from medcap.data.images.nifti import NiftiFile
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import View
from medcap.data.images.volume import Volume, VolumeCache


@pytest.fixture
def loads(monkeypatch):
    counted = []
    load = NiftiFile._load
    monkeypatch.setattr(NiftiFile, "_load", lambda file: counted.append(1) or load(file))
    return counted


def test_a_volume_is_read_once_for_all_its_slices_and_anew_once_it_changes(tmp_path, loads):
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), path)
    reader = ImageReader([tmp_path])
    slices = reader.expand(ImageRef(str(path), View(frames="all")))
    assert len(slices) == 5
    assert loads == []
    shown = [reader.open(image).getpixel((0, 0))[0] for image in slices]
    assert len(loads) == 1
    assert shown == sorted(shown)
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 6), dtype=np.int16), np.eye(4)), path)
    assert len(reader.expand(ImageRef(str(path), View(frames="all")))) == 6
    assert reader.open(slices[-1]).getpixel((0, 0)) == (0, 0, 0)
    assert len(loads) == 2


def volume(fill):
    return Volume(np.full((1, 1, 1), fill), (1.0, 1.0, 1.0))


def test_threads_that_want_one_volume_read_it_once():
    cache, reading, loads = VolumeCache(), threading.Event(), []

    def load():
        loads.append(1)
        reading.wait(1)
        return volume(3)

    threads = [threading.Thread(target=cache.get, args=("a", load)) for _ in range(4)]
    for thread in threads:
        thread.start()
    reading.set()
    for thread in threads:
        thread.join(10)
    assert len(loads) == 1


def test_a_large_volume_is_not_kept(monkeypatch):
    monkeypatch.setattr("medcap.data.images.volume.MAX_KEPT_BYTES", 4)
    cache, loads = VolumeCache(), []
    for _ in range(2):
        cache.get("a", lambda: loads.append(1) or volume(3))
    assert len(loads) == 2


@pytest.mark.processes
@pytest.mark.slow
def test_a_forked_process_does_not_wait_for_a_thread_of_its_parent():
    cache, entered, leave = VolumeCache(), threading.Event(), threading.Event()

    def load():
        entered.set()
        leave.wait(20)
        return volume(3)

    thread = threading.Thread(target=cache.get, args=("a", load))
    thread.start()
    entered.wait(10)
    child = multiprocessing.get_context("fork").Process(target=cache.get, args=("b", lambda: volume(4)))
    child.start()
    child.join(10)
    leave.set()
    thread.join(10)
    assert child.exitcode == 0


def test_a_reader_travels_between_processes(tmp_path):
    assert pickle.loads(pickle.dumps(ImageReader([tmp_path]))).roots == [tmp_path]

import os
import subprocess
import sys

import pytest

from helpers.sweeps import kill
from medcap.locks import hold, is_held

pytestmark = pytest.mark.processes


def test_a_lock_is_held_until_the_last_process_that_has_it_has_ended(tmp_path):
    path = tmp_path / "folder" / "lock"
    assert is_held(path) is None
    lock = hold(path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    lock.close()
    assert is_held(path) is True
    assert hold(path) is None
    kill(child.pid)
    child.wait()
    child.stdin.close()
    assert is_held(path) is False
    again = hold(path, wait=True)
    assert os.path.samestat(os.fstat(again.fileno()), path.stat())
    again.close()

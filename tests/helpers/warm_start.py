"""Real processes, quickly: a server that has imported everything forks itself for each process that is wanted.

A program's start is mostly imports. Tests that start dozens of processes to kill them would wait for little else.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

import torch
from torch.distributed import TCPStore

from helpers.waiting import PATIENCE, wait_for
from helpers.workspace import TINY_VISION, Workspace

TESTS = Path(__file__).parents[1]
RECIPES = (
    "medcap.recipes.full_finetune_single_device",
    "medcap.recipes.full_finetune_distributed",
    "medcap.recipes.generate",
)


class Run:
    """The processes of one run, started by ``WarmStart.run``.

    Args:
        server: that started them.
        pids: one a rank.
        logs: what each of them prints.
    """

    def __init__(self, server: WarmStart, pids: list[int], logs: list[Path]) -> None:
        self._server, self.pids, self.logs = server, pids, logs
        self._ended: dict[int, int] = {}

    def alive(self) -> bool:
        """Whether any of its processes runs."""
        for pid in self.pids:
            if pid not in self._ended:
                status = self._server.ask({"poll": pid})
                if status is not None:
                    self._ended[pid] = status
        return len(self._ended) < len(self.pids)

    def kill(self, *ranks: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to some ranks, by default to all."""
        for rank in ranks or range(len(self.pids)):
            if self.pids[rank] not in self._ended:
                os.kill(self.pids[rank], number)

    def wait(self, timeout: float = PATIENCE) -> list[int]:
        """Wait for all ranks to end.

        Returns:
            Their exit statuses; minus the signal's number for a killed one.

        Raises:
            TimeoutError: if one goes on for longer; all are killed then.
        """
        end = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError("\n".join(path.read_text()[-3000:] for path in self.logs))
            time.sleep(0.01)
        return [self._ended[pid] for pid in self.pids]

    def wait_as_torchrun(self, timeout: float = PATIENCE) -> list[int]:
        """Wait for one rank to end, end the others as torchrun does, and give what ``wait`` gives."""
        end = time.monotonic() + timeout
        while self.alive() and not self._ended and time.monotonic() < end:
            time.sleep(0.01)
        self.kill(number=signal.SIGTERM)
        return self.wait(timeout)

    def printed(self, rank: int = 0) -> str:
        """What a rank has printed."""
        return self.logs[rank].read_text()


class Program(Run):
    """One process, started by ``WarmStart.program``.

    Args:
        server: that started it.
        pids: its own.
        logs: what it prints.
        errors: what it prints on standard error.
    """

    def __init__(self, server: WarmStart, pids: list[int], logs: list[Path], errors: Path) -> None:
        super().__init__(server, pids, logs)
        self.pid, self.errors = pids[0], errors

    def lines(self, count: int) -> list[str]:
        """Wait until it has printed this many lines, or has ended."""
        wait_for(lambda: self.printed().count("\n") >= count or not self.alive())
        return self.printed().splitlines()[:count]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end: its exit status."""
        self.kill(number=number)
        return self.wait()[0]


class WarmStart:
    """The server: a fork of the process that makes it.

    Make it before any test has run, so that a test's changes to modules, its threads and its files are not inherited.
    """

    def __init__(self) -> None:
        theirs, requests = os.pipe()
        answers, ours = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(requests)
            os.close(answers)
            try:
                _leave_pytest()
                serve(os.fdopen(theirs), os.fdopen(ours, "w"))
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(ours)
        self._requests, self._answers = os.fdopen(requests, "w"), os.fdopen(answers)
        self._number = 0

    def close(self) -> None:
        """End the server, once its processes have ended."""
        # Its end of the pipe alone would not do: other processes that tests have forked may hold it too.
        self.ask({"end": True})
        os.waitpid(self._pid, 0)
        self._requests.close()
        self._answers.close()

    def ask(self, request: Mapping[str, object]) -> int | None:
        """Send a request and read its answer."""
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return json.loads(self._answers.readline())

    def train(
        self,
        workspace: Workspace,
        output: str,
        *overrides: str,
        processes: int = 1,
        module: str | None = None,
        file_limit: int | None = None,
        open_files: int | None = None,
    ) -> Run:
        """Start the training recipe on a workspace's model and data.

        Args:
            workspace: that they are in.
            output: name of the output folder in it.
            overrides: ``key=value``.
            processes: more than one take the distributed recipe.
            module: another program than the recipe.
            file_limit: bytes that a file may have, which stands for a full disk.
            open_files: how many files each process may have open.

        Returns:
            The run.
        """
        config = "medcap/tiny/distributed" if processes > 1 else "medcap/tiny/single_device"
        arguments = [
            *workspace.model_overrides(),
            f"output_dir={workspace.folder / output}",
            f"vision={TINY_VISION}",
            "projector.num_image_tokens=4",
            f"dataset.source={workspace.data}",
            "dataset.max_seq_len=96",
            "lr_scheduler.num_warmup_steps=3",
            "resume_from_checkpoint=latest",
            *overrides,
        ]
        words = ["--config", config, *arguments]
        return self.start(workspace.folder / "logs", words, processes, module, file_limit, open_files)

    def start(
        self,
        logs: Path,
        arguments: Sequence[str],
        processes: int = 1,
        module: str | None = None,
        file_limit: int | None = None,
        open_files: int | None = None,
    ) -> Run:
        """Start the training recipe.

        Args:
            logs: folder for what it prints.
            arguments: what follows the recipe's name on the command line.
            processes: more than one take the distributed recipe.
            module: another program than the recipe.
            file_limit: bytes that a file may have.
            open_files: how many files each process may have open.

        Returns:
            The run.
        """
        logs.mkdir(parents=True, exist_ok=True)
        self._number += 1
        # As torchrun does it: the place where the processes meet outlives each of them.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        pids, files = [], []
        for rank in range(processes):
            files.append(logs / f"run_{self._number}_rank_{rank}.txt")
            files[-1].touch()  # a process that is ended at once may not have come to it
            environment = {}
            if processes > 1 or module:
                environment = {
                    "RANK": rank,
                    "LOCAL_RANK": rank,
                    "WORLD_SIZE": processes,
                    "LOCAL_WORLD_SIZE": processes,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": self._store.port,
                    "TORCHELASTIC_USE_AGENT_STORE": "True",
                }
            request = {
                "module": module or RECIPES[processes > 1],
                "arguments": list(arguments),
                "file_limit": file_limit,
                "open_files": open_files,
                "log": str(files[-1]),
                "environment": {name: str(value) for name, value in environment.items()},
            }
            pids.append(self.ask(request))
        return Run(self, pids, files)

    def program(
        self,
        output: Path,
        code: str,
        *arguments: str,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start what ``python -c CODE ARGUMENTS`` would.

        Args:
            output: file for what it prints; what it prints on standard error goes to the same name with ``.err``.
            code: its source.
            arguments: what follows it on the command line.
            folder: the folder that it starts in.
            environment: variables that it has beside this process's.

        Returns:
            The program.
        """
        errors = output.with_name(output.name + ".err")
        for file in (output, errors):
            file.touch()
        request = {
            "code": code,
            "arguments": list(arguments),
            "folder": str(folder or Path.cwd()),
            "log": str(output),
            "errors": str(errors),
            "environment": {**os.environ, **(environment or {})},
        }
        return Program(self, [self.ask(request)], [output], errors)


def _leave_pytest() -> None:
    """Make a fork of pytest what a program is that has just begun."""
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end: start a process, or tell the exit status of one."""
    for recipe in RECIPES:
        __import__(recipe)
    _warm_up()
    # Without this each fork's first collection would touch, and so copy, all that was imported.
    gc.collect()
    gc.freeze()
    ended: dict[int, int] = {}
    for line in requests:
        request = json.loads(line)
        if "poll" in request:
            pid = request["poll"]
            if pid not in ended:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(pid)
        elif "end" in request:
            answer = None
        else:
            answer = os.fork()
            if answer == 0:
                _become(request)
        print(json.dumps(answer), file=answers, flush=True)
        if "end" in request:
            return


def _warm_up() -> None:
    """Import what a recipe imports only when it runs."""
    import pydantic.type_adapter
    from PIL import Image

    from medcap.checkpoints.vision import plan_vision

    Image.init()
    tiny = {"name": "tiny", "image_size": 16, "stride": 8, "width": 32, "depth": 1, "heads": 2}
    tower, _ = plan_vision(tiny, None, {"_component_": "medcap.models.mlp", "num_image_tokens": 4}, 32).build()
    with torch.no_grad():
        tower.on_meta().encode_patches(torch.zeros(1, 3, 16, 16, device="meta"))
    # The tower of most tests: its shape is measured by now, and this is the other thing that every start asks of it.
    tower.unused_parameters("patches")
    pydantic.TypeAdapter(int | None)


def _become(request: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        _enter(request)
        if "code" in request:
            sys.argv = ["-c", *request["arguments"]]
            program = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(request["code"], "<string>", "exec"), vars(program))
        else:
            name = request["module"]
            sys.argv = [name, *request["arguments"]]
            sys.modules.pop(name, None)
            runpy.run_module(name, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _enter(request: dict[str, Any]) -> None:
    """Take a program's session, files, folder, variables and limits."""
    os.setsid()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    errors = os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if "errors" in request else log
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (errors, 2)):
        os.dup2(descriptor, target)
    # pytest's own write elsewhere, and so do the log handlers that modules made when they were imported.
    sys.stdin = sys.__stdin__ = os.fdopen(0)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", buffering=1)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1)
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stderr
    if "folder" in request:
        os.chdir(request["folder"])
    os.environ.update(request["environment"])
    if request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    if request.get("open_files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["open_files"], request["open_files"]))

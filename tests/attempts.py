"""
Commands in processes of their own, forked from one that has loaded PyTorch once: each takes milliseconds to start,
and may be killed, starved or cut off without harm to the tests. `python attempts.py` is the process that forks.
"""

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import warm

LOADED = (
    "pneumoprune.cli",
    "pneumoprune.networks",
    "onnxruntime",
    "importlib.readers",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
)


class Ended(NamedTuple):
    "How a process ended"

    code: int  # exit code; -9 for one killed by signal 9
    out: str
    err: str
    seconds: float  # on the processor: others may be busy too
    mb: int  # resident at the peak


class Attempts:
    "The forking process, seen from the tests"

    def __init__(self, cache: Path):  # folder of decoded images
        # of the user's machine nothing but the paths: no threads to fork, no cache of images, no width of a terminal
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PNEUMOPRUNE_CACHE": str(cache), "TQDM_DISABLE": "1"}
        ours, theirs = socket.socketpair()
        if warm.loaded and not (pid := os.fork()):  # what this process has loaded need not be loaded again
            ours.close()
            os.environ.update(environment)
            _serve_on(theirs.fileno())
        if not warm.loaded:
            pid = subprocess.Popen([sys.executable, __file__], stdin=theirs, stdout=theirs, env=environment).pid
        theirs.close()
        self._pid, self._line = pid, ours.makefile("rw")
        ours.close()

    def close(self) -> None:
        self._line.close()
        os.waitpid(self._pid, 0)

    def _ask(self, **request) -> dict:
        self._line.write(json.dumps(request) + "\n")
        self._line.flush()
        return self._answer()

    def _answer(self) -> dict:
        return json.loads(self._line.readline())

    def __call__(
        self,
        arguments: Sequence,  # of the command `pneumoprune`; or of `call`
        folder: Path,  # the working folder
        *,
        call: str = "pneumoprune.cli:main",  # module:function; any but the command line is called with the arguments
        kill_after: float | None = None,  # seconds of the processor to SIGKILL: a busy machine changes nothing
        interrupt_at: Path | None = None,  # a file: Ctrl-C as soon as it is there
        kill_at: Path | Callable[[], bool] | None = None,  # SIGKILL as soon as the file is there, or that is so
        modules: Path | None = None,  # a folder to import from
        limit: float = 60,  # seconds to SIGALRM: nothing may wait for ever
        file_size: int | None = None,  # bytes that a file may have: more can't be written, in whatever language
    ) -> Ended:
        "Run and wait"
        with tempfile.TemporaryDirectory() as place:
            request = {
                "arguments": [os.fsencode(str(a)).decode("latin-1") for a in arguments],
                "folder": str(folder),
                "call": call,
                "limit": limit,
                "modules": str(modules or ""),
                "file_size": file_size,
                "out": f"{place}/out",
                "err": f"{place}/err",
            }
            pid = self._ask(**request)["pid"]
            if kill_after is not None:
                threading.Thread(target=_kill, args=(pid, kill_after), daemon=True).start()
            for when, number in ((interrupt_at, signal.SIGINT), (kill_at, signal.SIGKILL)):
                if when:
                    asked = when.exists if isinstance(when, Path) else when
                    threading.Thread(target=_send_at, args=(pid, number, asked), daemon=True).start()
            ended = self._answer()
            texts = (
                Path(place, name).read_text(encoding="utf-8", errors="backslashreplace") for name in ("out", "err")
            )
            return Ended(ended["code"], *texts, ended["seconds"], ended["mb"])


def _kill(pid: int, seconds: float) -> None:
    "SIGKILL for a process that has worked so long"
    status, ticks = Path(f"/proc/{pid}/stat"), seconds * os.sysconf("SC_CLK_TCK")
    try:
        while sum(map(int, status.read_text(encoding="utf-8").rpartition(")")[2].split()[11:13])) < ticks:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        pass


def _send_at(pid: int, number: int, asked: Callable[[], bool]) -> None:
    "A signal for a process as soon as something is so"
    give_up = time.monotonic() + 300
    while not asked() and time.monotonic() < give_up:
        time.sleep(0.01)
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended
        pass


def _obey_rights() -> None:
    "The administrator of Linux may read and write everything: lay that power down"
    if sys.platform == "linux" and os.geteuid() == 0:
        libc, header, powers = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc.capget(header, powers)
        for i in range(2):  # effective and permitted
            powers[i] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.capset(header, powers)


def _become(request: dict) -> None:
    "The child: streams, limits and user as asked"
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_CREAT | os.O_WRONLY, 0o666), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", errors=errors, closefd=False)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    signal.setitimer(signal.ITIMER_REAL, request["limit"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    if request["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    _obey_rights()


def _run(request: dict) -> int:
    "The child's exit code"
    module, name = request["call"].split(":")
    arguments = [os.fsdecode(a.encode("latin-1")) for a in request["arguments"]]
    try:
        _become(request)
        sys.path[:0] = [request["modules"]] * bool(request["modules"])
        function = getattr(import_module(module), name)
        if name == "main":
            sys.argv = ["pneumoprune", *arguments]
            function()
        else:
            function(*arguments)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _serve() -> None:
    "The forking process itself"
    warm.load()
    for name in LOADED:
        import_module(name)
    gc.freeze()  # or each process would look through all that is loaded
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if not (pid := os.fork()):
            code = _run(request)
            os._exit(code)
        print(json.dumps({"pid": pid}), file=replies, flush=True)
        _, status, usage = os.wait4(pid, 0)
        print(
            json.dumps(
                {
                    "code": os.waitstatus_to_exitcode(status),
                    "seconds": usage.ru_utime + usage.ru_stime,
                    "mb": usage.ru_maxrss // 1024,
                }
            ),
            file=replies,
            flush=True,
        )


def _serve_on(line: int) -> None:
    "The forking process is a copy of this one, at the end of this line"
    try:
        for number in (0, 1):
            os.dup2(line, number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        _serve()
    finally:
        os._exit(0)


if __name__ == "__main__":
    _serve()

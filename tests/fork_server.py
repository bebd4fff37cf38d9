"""A process that has imported what mnemo needs, and forks one that runs the command when it is told to.

The command so started is real: it has a process, arguments, folder, signals, output and exit code of its own. It is
there at once, where a new interpreter would import torch for seconds.

Reads requests from standard input and writes answers to standard output, a line of JSON each.
"""

import importlib
import json
import os
import signal
import sys
import traceback
import warnings

# Not mnemo.cli and mnemo.console: what they find out about the terminal is about the child's.
IMPORTS = ("typer", "rich.progress", "rich.table", "torch._dynamo", "mnemo.experiment", "mnemo.report.figures")


def serve():
    for name in IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork() or child(**request)
        print(json.dumps(answer), flush=True)


def child(argv, cwd, before, outputs):
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    try:
        redirect(outputs)
        os.chdir(cwd)
        sys.argv = argv
        warnings.simplefilter("error")
        os.fsync = lambda handle: None  # kills are survived without it; only a power cut would show
        exec(before, {})
        from mnemo.cli import main

        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def redirect(outputs):
    paths = [os.devnull, *outputs]
    modes = [os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT]
    for number, (path, mode) in enumerate(zip(paths, modes, strict=True)):
        handle = os.open(path, mode | os.O_NOCTTY)
        os.dup2(handle, number)
        os.close(handle)


if __name__ == "__main__":
    serve()

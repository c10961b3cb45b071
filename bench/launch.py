"""Run one command and say what it cost: `python -I -S launch.py FD LIMIT COMMAND...`.

A program of its own, because Linux counts the memory of the process that starts a command as the command's own until
exec: from a small launcher the peak is the command's. Writes one JSON object to the file descriptor FD.
"""

import json
import os
import signal
import sys
import time


def main() -> None:
    """Start, wait, report; a command over LIMIT seconds is killed with its whole group."""
    report, limit, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(report, False)
    begun = time.perf_counter()
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    except OSError as error:
        os.write(report, json.dumps({"error": error.strerror}).encode())
        return
    over: list[int] = []

    def stop(number: int, frame: object) -> None:
        over.append(number)
        os.killpg(child, signal.SIGKILL)

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - begun
    signal.setitimer(signal.ITIMER_REAL, 0)
    facts = {
        "code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "stopped": bool(over),
    }
    os.write(report, json.dumps(facts).encode())


main()

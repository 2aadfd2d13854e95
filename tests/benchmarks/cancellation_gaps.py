"""How long a reconstruction computes without looking whether it has been cancelled.

python tests/benchmarks/cancellation_gaps.py scan.h5 --pipeline mri2qmap --threads 2

Prints the longest times between two looks, with the code that ran meanwhile.
"""

import argparse
import collections
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from mri2qmap.cli.main import main
from mri2qmap.machine.cancellation import Cancellation

PACKAGE = str(Path(sys.modules["mri2qmap"].__file__).parent)


class TimedCancellation(Cancellation):
    """Notes the time of each look."""

    def __init__(self):
        super().__init__()
        self.last = time.perf_counter()
        self.gaps = []
        self.looks = 0

    @property
    def error(self):
        now = time.perf_counter()
        self.gaps.append((now - self.last, self.last))
        self.last, self.looks = now, self.looks + 1
        return super().error


def watch(cancellation, thread, longest, found, ended):
    """Note where the code is when it has not looked for long."""
    noted = None
    while not ended.wait(longest / 4):
        since = cancellation.last
        if time.perf_counter() - since > longest and noted != since:
            noted = since
            stack = traceback.extract_stack(sys._current_frames()[thread.ident])
            own = [frame for frame in stack if frame.filename.startswith(PACKAGE)][-3:]
            found[since] = " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in own)


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan")
    parser.add_argument("--pipeline", default="mri2qmap")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--longest", type=float, default=0.5, help="shortest gap to be shown [s]")
    args, more = parser.parse_known_args()
    cancellation, found, ended = TimedCancellation(), {}, threading.Event()
    watched = (cancellation, threading.main_thread(), args.longest, found, ended)
    watcher = threading.Thread(target=watch, args=watched)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder, cancellation.active():
        words = ["-p", args.pipeline, "--threads", args.threads, "-o", f"{folder}/maps", *more]
        code = main(["replay", args.scan, *words])
    ended.set()
    watcher.join()
    places = collections.defaultdict(list)
    for gap, since in cancellation.gaps:
        if gap > args.longest:
            places[found.get(since, "?")].append(gap)
    print(f"{args.pipeline}: {cancellation.looks} looks; gaps of more than {args.longest} s:")
    for place, gaps in sorted(places.items(), key=lambda item: -max(item[1])):
        print(f"{max(gaps):7.2f} s, {len(gaps):4} times  {place}")
    return code


if __name__ == "__main__":
    sys.exit(run())

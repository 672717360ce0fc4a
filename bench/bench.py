"""What is fast here, and against what: every part in a process of its own, its numbers kept as soon as they are there

    make bench DATA=chest_xray.zip         # all parts, in about a quarter of an hour: a new bench/results.json
    python bench/bench.py inference growth # some parts; the numbers of the others stay
    python bench/inference.py              # one part, seen from near; its numbers are kept, too

Contenders take turns, and what counts are ratios within a turn: medians with quartiles. `make readme` writes the table
of README.md from the file. Without DATA phantoms are drawn. Of X-rays only training images are used.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from common import HERE, PARTS, RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {sorted(unknown)[0]}; choose from {', '.join(PARTS)}")
    given = ["--data", str(options.data)] if options.data else []
    failed, start = [], time.perf_counter()
    if not options.parts:
        RESULTS.unlink(missing_ok=True)  # of an earlier run
    for part in options.parts or PARTS:
        print(f"{part} …", flush=True)
        began = time.perf_counter()
        done = subprocess.run([sys.executable, str(HERE / f"{part}.py"), *given])
        failed += [part] if done.returncode else []
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    if failed:
        sys.exit(f"failed: {' '.join(failed)}; again: python bench/bench.py {' '.join([*failed, *given])}")


if __name__ == "__main__":
    main()

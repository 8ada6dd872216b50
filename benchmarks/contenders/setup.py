"""`python -m benchmarks.contenders.setup [--redis] [NAME...]`: install the peers that apicas is measured beside.

Each goes into an environment of its own under `.bench/`. With --redis, and as root, a Redis server is installed too
where there is none.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.contenders.environments import Skipped, install, install_redis, peers


def set_up(names: list[str], *, redis: bool = False) -> bool:
    """Install peers; answers whether all of it worked. What did not is said, and its contenders are skipped later."""
    complete = True
    for name in names or peers():
        print(f"installing {name}", flush=True)
        try:
            install(name)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} could not be installed, and is skipped: {error}", file=sys.stderr)
            complete = False
    if redis:
        try:
            install_redis()
        except Skipped as skipped:
            print(skipped, file=sys.stderr)
            complete = False
    return complete


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contenders.setup", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(peers())}; all by default")
    parser.add_argument("--redis", action="store_true", help="install redis-server with apt-get, as root")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(peers()))
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}")
    sys.exit(0 if set_up(arguments.names, redis=arguments.redis) else 1)


if __name__ == "__main__":
    main()

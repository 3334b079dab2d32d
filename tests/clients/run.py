#!/usr/bin/env python3
"""Real S3 clients against a real Larder.

Starts a Larder over two local directories and a second Larder as its S3 backend, two replicas of
everything, and lets each client send a source tree in and take it out again. The last line counts
what passed and failed; the exit code is 1 when anything failed. A client that is not there fails,
unless --allow-missing is given.
"""

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import install
import sdk
import tools
from world import Failure, World, check

CLIENTS = {**install.CLIENTS, **tools.CLIENTS, **sdk.CLIENTS}
REPOSITORY = Path(__file__).resolve().parents[2]


class Report:
    def __init__(self):
        self.passed = self.failed = 0
        self.versions = []

    def step(self, client, name, action):
        """Runs one check and tells how it went; a failure does not stop the others."""
        began = time.monotonic()
        try:
            action()
        except Failure as failure:
            self.fail(client, name, str(failure))
        except Exception as error:  # whatever a client's library raises is a finding
            self.fail(client, name, "".join(traceback.format_exception(error, limit=-3)).strip())
        else:
            self.passed += 1
            print(f"ok      {client}: {name} ({time.monotonic() - began:.1f} s)", flush=True)

    def fail(self, client, name, text):
        self.failed += 1
        shown = "\n".join(f"        {line}" for line in text.splitlines()[-30:])
        print(f"FAILED  {client}: {name}\n{shown}", flush=True)


def run_client(report, name, world, env, allow_missing):
    try:
        client = CLIENTS[name](world, env)
        report.versions.append(client.version_line())
        # Closed whatever happens: a journey stops what it started.
        with contextlib.closing(client.journey()) as steps:
            for step, action in steps:
                report.step(name, step, action)
    except ImportError as error:
        missing(report, name, f"{error}", allow_missing)
    except Failure as failure:
        missing(report, name, str(failure), allow_missing)
    except Exception as error:
        report.fail(name, "start", "".join(traceback.format_exception(error, limit=-3)).strip())


def missing(report, name, text, allow_missing):
    if allow_missing:
        print(f"MISSING {name}: {text}", flush=True)
    else:
        report.fail(name, "is there", text)


def check_servers(report, world, all_clients):
    """What must hold when the clients have gone."""
    larder, remote = world.larder, world.remote

    def every_backend_has_bytes():
        for root in [*world.disks, world.remote_disk]:
            size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
            check(size > 10_000, f"only {size} bytes in {root.name}: the clients did not reach it")

    def stops():
        codes = world.stop()
        check(codes == [0, 0], f"exit codes {codes}\n{larder.log_tail()}")

    def quiet_log():
        for server in (larder, remote):
            text = server.log_text()
            check("panicked" not in text, f"{server.name} panicked:\n{server.log_tail()}")
            for secret in (larder.secret, remote.secret):
                check(secret not in text, f"a secret is in the log of {server.name}")

    if all_clients:
        report.step("larder", "every backend has bytes", every_backend_has_bytes)
    report.step("larder", "verify of every byte while it serves",
                lambda: larder.command("verify", "--backends", "--read", "--json"))
    report.step("larder", "stops when asked", stops)
    report.step("larder", "verify when it is stopped", lambda: larder.command("verify", "--json"))
    report.step("larder", "no panic and no secret in the log", quiet_log)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}; all without one")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target" / "debug" / "larder")
    parser.add_argument("--tools", type=Path, action="append", default=[], help="a directory of programs, searched first")
    parser.add_argument("--tree", type=Path, help="the source tree to send; without it crates' and Python's sources")
    parser.add_argument("--files", type=int, default=3000, help="the most files of that tree")
    parser.add_argument("--allow-missing", action="store_true", help="a client that is not installed is no failure")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory")
    given = parser.parse_args()
    for name in given.clients:
        if name not in CLIENTS:
            parser.error(f"there is no client {name}")
    if not given.binary.is_file():
        parser.error(f"there is no binary {given.binary}: cargo build")
    return given


def main():
    given = arguments()
    # Asked to end, it still stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    home = Path(tempfile.mkdtemp(prefix="larder-clients-"))
    report = Report()
    world = World(given.binary.resolve(), home, given.files)
    try:
        world.make_tree(given.tree)
        world.start()
        env = world.client_env([Path(sys.executable).parent, *(t.resolve() for t in given.tools)])
        for name in given.clients or CLIENTS:
            run_client(report, name, world, env, given.allow_missing)
        check_servers(report, world, not given.clients)
    except Failure as failure:
        report.fail("larder", "starts", str(failure))
    finally:
        world.stop()
        if given.keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    for version in report.versions:
        print(f"with    {version}")
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Runs a command with a WebDAV server and an Azure Blob emulator beside it.

The command finds them in LARDER_TEST_WEBDAV (the address of an empty root, no login) and
LARDER_TEST_AZURITE (the endpoint of the emulator's one account, with the container `larder`).
Both servers end with the command. A contract run over one of them leaves a file of the server's
name in the directory LARDER_TEST_HAPPENED; with --every-run a command that left one out fails.
"""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from world import free_ports

READY_WAIT_S = 60
# Servers over which the tests run the contract of a backend.
RUNS = ("webdav", "azurite")
CONTAINER = "larder"
# The emulator's account, the same in every installation and printed in its manual.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AZURE_VERSION = "2021-08-06"


@contextlib.contextmanager
def server(arguments, address, log):
    """A server that answers at its address while the context lasts."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + READY_WAIT_S
        while not answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{arguments[0]} does not serve:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(address):
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def create_container(endpoint):
    date = email.utils.formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:{AZURE_VERSION}\n"
    resource = f"/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{CONTAINER}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    digest = hmac.new(base64.b64decode(AZURITE_KEY), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"{endpoint}/{CONTAINER}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": AZURE_VERSION,
            "Content-Length": "0",
            "Authorization": f"SharedKey {AZURITE_ACCOUNT}:{base64.b64encode(digest).decode()}",
        },
    )
    urllib.request.urlopen(request, timeout=30).close()


def start_webdav(servers, home, env):
    program = found("wsgidav", str(Path(sys.executable).parent))
    if program is None:
        return
    root = home / "dav"
    root.mkdir()
    address = f"http://127.0.0.1:{(port := free_ports(1)[0])}/"
    arguments = [program, "--host", "127.0.0.1", "--port", port, "--root", root,
                 "--auth", "anonymous", "--no-config"]
    servers.enter_context(server(arguments, address, home / "wsgidav.log"))
    env["LARDER_TEST_WEBDAV"] = address


def start_azurite(servers, home, env):
    program = found("azurite-blob", None)
    if program is None:
        return
    endpoint = f"http://127.0.0.1:{(port := free_ports(1)[0])}/{AZURITE_ACCOUNT}"
    arguments = [program, "--blobHost", "127.0.0.1", "--blobPort", port, "--location", home / "blob",
                 "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    servers.enter_context(server(arguments, endpoint, home / "azurite.log"))
    create_container(endpoint)
    env["LARDER_TEST_AZURITE"] = endpoint


def found(program, path):
    """Where a server is. Without it its contract run is left out, but never unnoticed in CI."""
    where = shutil.which(program, path=path)
    if where is None:
        if os.environ.get("CI") == "true":
            sys.exit(f"{program} is not installed: tests/run tools")
        print(f"\n*** {program} is not installed: its contract run is left out\n", file=sys.stderr)
    return where


def main():
    command = sys.argv[1:]
    every_run = command[:1] == ["--every-run"]
    command = command[every_run:]
    if not command:
        sys.exit("usage: services.py [--every-run] COMMAND [ARGUMENT]...")
    home = Path(tempfile.mkdtemp(prefix="larder-services-"))
    happened = home / "happened"
    happened.mkdir()
    env = {**os.environ, "LARDER_TEST_HAPPENED": str(happened)}
    # Asked to end, it still stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with contextlib.ExitStack() as servers:
            for start in (start_webdav, start_azurite):
                start(servers, home, env)
            code = subprocess.run(command, env=env).returncode
        wanted = [name for name in RUNS if f"LARDER_TEST_{name.upper()}" in env]
        left_out = [name for name in wanted if not (happened / name).exists()]
        print(f"contract runs over servers: {', '.join(sorted(set(wanted) - set(left_out))) or 'none'}")
        if every_run and left_out:
            print(f"*** left out, although its server ran: {', '.join(left_out)}", file=sys.stderr)
            return code or 1
        return code
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

"""A Larder to test against: two local directories and a second Larder as its S3 backend.

Everything lives in one temporary directory and on free ports; only processes that were started here
are ever ended.
"""

import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sysconfig
import time
from pathlib import Path

READY_WAIT_S = 60
STOP_WAIT_S = 60  # above the server's shutdown_timeout
COMMAND_WAIT_S = 1200
MIB = 1 << 20
REGION = "us-east-1"


class Failure(Exception):
    """A check that did not hold; its text is for the reader of the report."""


def check(holds, text):
    if not holds:
        raise Failure(text)


def free_ports(count):
    """Ports that nobody listens on now. All are held until all are known, so they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def random_text(alphabet, length):
    return "".join(secrets.choice(alphabet) for _ in range(length))


def run(arguments, env, cwd=None, ok=(0,), stdin=None):
    """Runs a client to its end and returns what it wrote to stdout."""
    done = subprocess.run(
        [str(a) for a in arguments],
        env=env,
        cwd=cwd,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=COMMAND_WAIT_S,
    )
    out = done.stdout.decode("utf-8", "replace")
    if done.returncode not in ok:
        said = (done.stderr.decode("utf-8", "replace") + out).strip().splitlines()
        shown = "\n".join(said[-15:])
        raise Failure(f"{Path(str(arguments[0])).name} ended with {done.returncode}:\n{shown}")
    return out


class Larder:
    """One server process with its configuration and its key."""

    def __init__(self, binary, home, name):
        self.binary, self.name = binary, name
        self.home = home / name
        self.home.mkdir()
        self.config = self.home / "larder.toml"
        self.log = self.home / "log"
        self.port, self.admin_port = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.key = "LK" + random_text(string.ascii_uppercase + string.digits, 18)
        self.secret = random_text(string.ascii_letters + string.digits, 40)
        self.process = None

    def configure(self, defaults, backends, extra=""):
        data = self.home / "data"
        data.mkdir(mode=0o700)
        text = [
            f"data_dir = {json.dumps(str(data))}",
            "[server]",
            f'listen = "127.0.0.1:{self.port}"',
            f'admin_listen = "127.0.0.1:{self.admin_port}"',
            f'region = "{REGION}"',
            "[defaults]",
            *(f"{key} = {json.dumps(value)}" for key, value in defaults.items()),
        ]
        for backend in backends:
            options = ", ".join(f"{k} = {json.dumps(v)}" for k, v in backend["options"].items())
            text += [
                "[[backend]]",
                f'name = "{backend["name"]}"',
                f'service = "{backend["service"]}"',
                f"options = {{ {options} }}",
            ]
            if "quota" in backend:
                text.append(f'quota = "{backend["quota"]}"')
        text += [
            extra,
            "[[key]]",
            f'id = "{self.key}"',
            f'secret = "{self.secret}"',
            "create_buckets = true",
            'grants = [{ bucket = "*",'
            ' allow = ["read", "list", "create", "write", "delete", "admin"] }]',
            "",
        ]
        self.config.write_text("\n".join(text))
        self.config.chmod(0o600)

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "--config", self.config, "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WAIT_S
        while not self.is_ready():
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise Failure(f"{self.name} is not ready after {READY_WAIT_S} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def is_ready(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self):
        """Asks politely; returns the exit code, or None when the process had to be killed."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def command(self, *arguments):
        return run([self.binary, "--config", self.config, *arguments], os.environ.copy())

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self):
        return "\n".join(self.log_text().splitlines()[-20:])


class World:
    """The server under test, the server behind it, and the files that go in and out."""

    def __init__(self, binary, home, files_max):
        self.home = home
        self.files_max = files_max
        self.remote = Larder(binary, home, "remote")
        self.larder = Larder(binary, home, "larder")
        self.disks = [home / "disk1", home / "disk2"]
        self.remote_disk = home / "remote-disk"
        self.tree = home / "tree"

    def start(self):
        for directory in [*self.disks, self.remote_disk]:
            directory.mkdir()
        self.remote.configure(
            {"replicas": 1},
            [{"name": "disk", "service": "fs", "options": {"root": str(self.remote_disk)}}],
            '[[bucket]]\nname = "store"',
        )
        self.remote.start()
        # With quotas and `spread` all three backends get bytes; `pack` would leave the last empty.
        backends = [
            {"name": f"disk{n}", "service": "fs", "quota": "40 GB", "options": {"root": str(root)}}
            for n, root in enumerate(self.disks, 1)
        ]
        backends.append({
            "name": "remote",
            "service": "s3",
            "quota": "40 GB",
            "options": {
                "bucket": "store",
                "endpoint": self.remote.endpoint,
                "region": REGION,
                "access_key_id": self.remote.key,
                "secret_access_key": self.remote.secret,
            },
        })
        defaults = {"replicas": 2, "min_replicas": 2, "routing": "spread", "same_device": True}
        self.larder.configure(defaults, backends)
        self.larder.start()

    def stop(self):
        # The one in front first: its last writes still go to the one behind.
        return [server.stop() for server in (self.larder, self.remote)]

    def client_env(self, tools):
        """The environment of clients: nothing of this user's own settings reaches them."""
        client_home = self.home / "client-home"
        client_home.mkdir(exist_ok=True)
        return {
            "PATH": os.pathsep.join([*map(str, tools), os.environ.get("PATH", "")]),
            "HOME": str(client_home),
            "TMPDIR": str(self.home),
            "LC_ALL": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": self.larder.key,
            "AWS_SECRET_ACCESS_KEY": self.larder.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.larder.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            # A retry would hide a wrong answer.
            "AWS_MAX_ATTEMPTS": "1",
        }

    def make_tree(self, source=None):
        """Copies a real source tree, and adds the names and sizes that break careless programs."""
        self.tree.mkdir()
        copied = 0
        for root in [Path(source)] if source else source_roots():
            for path in sorted(root.rglob("*")):
                if copied >= self.files_max:
                    break
                if path.is_symlink() or not path.is_file() or path.stat().st_size > 4 * MIB:
                    continue
                target = self.tree / "source" / root.name / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                copied += 1
        check(source or copied >= min(self.files_max, 1000), f"only {copied} source files found: use --tree")
        odd = self.tree / "odd names"
        odd.mkdir()
        for name in ["plain", "with space", "a+b", "50%", "a%20b", "a&b=c", "ü é 漢字", "(x) [y] {z}",
                     "semi;colon", "~tilde", "quote'quote", "#hash", "comma,at@", "long-" + "n" * 180]:
            (odd / name).write_text(f"this is {name}\n")
        deep = odd.joinpath(*(["deep"] * 30))
        deep.mkdir(parents=True)
        (deep / "file").write_text("down here\n")
        sizes = self.tree / "sizes"
        sizes.mkdir()
        # Around the short path, a hash group, a part of every client, and the window.
        for size in [0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 5 * MIB, 8 * MIB + 1, 21 * MIB + 7]:
            (sizes / str(size)).write_bytes(patterned(size))


def source_roots():
    """Real source trees that any machine that runs this has."""
    registry = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry" / "src"
    roots = sorted(registry.glob("*/*")) if registry.is_dir() else []
    return [*roots, Path(sysconfig.get_paths()["stdlib"])]


def patterned(size):
    """Bytes without a short period, so that exchanged or repeated pieces are noticed."""
    return hashlib.shake_128(str(size).encode()).digest(size)


def manifest(root):
    """Every file below a directory with the hash of its bytes."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def same_files(expected, root):
    found = manifest(root)
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    differ = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    for what, names in [("missing", missing), ("too many", extra), ("with other bytes", differ)]:
        check(not names, f"{len(names)} files {what}: {', '.join(names[:5])}")

"""install.sh as an ordinary user's first minutes: detached, in a home directory of its own."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from world import Failure, check, run

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL_WAIT_S = 120
# What install.sh may use besides bash; a compiler is not among it.
PLAIN_TOOLS = ["awk", "bash", "cat", "chmod", "cp", "cut", "date", "df", "dirname", "env", "grep", "head", "id",
               "mkdir", "mktemp", "mv", "nohup", "rm", "rmdir", "sed", "setsid", "sh", "sleep", "sort", "stat",
               "tail", "tr", "uname", "wc"]


def runs(pid):
    """Whether the process lives; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Install:
    program = "install.sh"

    def __init__(self, world, env):
        self.home = world.home / "install home"
        self.home.mkdir()
        self.disks = [self.home / "disk 1", self.home / "disk 2"]
        for disk in self.disks:
            disk.mkdir()
        self.binary = world.larder.binary
        # Without a session bus there is no systemd of this user's: the server runs detached.
        self.env = {"PATH": env["PATH"], "HOME": str(self.home), "LC_ALL": "C.UTF-8"}
        self.said = ""
        self.config = self.home / ".config/larder/larder.toml"
        self.data = self.home / ".local/share/larder"
        self.pid_file = self.home / ".local/state/larder/larder.pid"

    def version_line(self):
        check(shutil.which("curl"), "curl is not installed")
        return run(["curl", "--version"], self.env).splitlines()[0]

    def install(self, *arguments, code=0, stdin="", env=None):
        done = subprocess.run(
            [REPOSITORY / "install.sh", "--binary", self.binary, *arguments],
            env=env or self.env, input=stdin, text=True, timeout=INSTALL_WAIT_S,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = done.stdout + done.stderr
        if done.returncode != code:
            raise Failure(f"install.sh ended with {done.returncode} instead of {code}:\n{said}")
        return said

    def curl_line(self, said):
        """Runs the line that install.sh printed, as a user pastes it."""
        line = next(line for line in said.splitlines() if line.strip().startswith("s3() {"))
        out = run(["bash", "-c", line], self.env)
        check("Hello from Larder." in out, f"the curl line gives {out!r}")

    def journey(self):
        disks = [f"--disk={disk}" for disk in self.disks]
        if shutil.which("systemd-analyze"):
            yield "the systemd units are right", self.units
        yield "refuses what cannot work, and changes nothing", lambda: self.refusals(disks)
        try:
            yield "brings the endpoint up beside taken ports", lambda: self.first(disks)
            yield "a second run keeps the configuration and restarts", lambda: self.second(disks)
            yield "the printed stop line stops it", self.stop_line
            yield "--uninstall keeps the data", self.uninstall
            yield "--purge asks twice", self.purge
        finally:
            if self.pid_file.exists():
                self.install("--uninstall")

    def units(self):
        """Each unit with this binary in it; a misspelt key is a warning and the exit code 0."""
        runtime = self.home / "runtime"
        runtime.mkdir(mode=0o700)
        env = {**self.env, "XDG_RUNTIME_DIR": str(runtime)}
        for name, options in [("larder.service", []), ("larder-user.service", ["--user"])]:
            text = (REPOSITORY / "packaging" / name).read_text()
            unit = self.home / name
            unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={self.binary}", text))
            done = subprocess.run(["systemd-analyze", *options, "verify", unit], env=env, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            check(done.returncode == 0 and name not in done.stdout, f"{name}: {done.stdout}")

    def refusals(self, disks):
        check("--demo" in self.install(*disks, code=1), "two disks on one device: --demo is not named")
        check("mounted" in self.install("--disk", self.home / "none", code=1), "a missing directory")
        check("twice" in self.install("--demo", disks[0], disks[0], code=1), "a directory given twice")
        check("--help" in self.install("--nonsense", code=2), "an unknown argument")
        said = self.install("--binary", self.home / "none", code=1)
        check("there is no file" in said, "a missing binary")
        bare = self.home / "bare"
        bare.mkdir()
        for tool in PLAIN_TOOLS:
            if where := shutil.which(tool):
                (bare / tool).symlink_to(where)
        env = {**self.env, "PATH": str(bare)}
        said = self.install("--binary=", code=1, env=env)
        check("cargo" in said and "to mend it: " in said, f"without cargo: {said}")
        cargo = bare / "cargo"
        for version, expected in [("1.94.9", "1.94.9"), ("1.95.0", "C compiler"), ("2.0.0", "C compiler")]:
            cargo.write_text(f"#!/bin/sh\necho 'cargo {version} (0 0)'\n")
            cargo.chmod(0o755)
            said = self.install("--binary=", code=1, env=env)
            check(expected in said and "to mend it: " in said, f"with cargo {version}: {said}")
        check(not self.config.exists() and not self.data.exists(), "a refused run left something behind")

    def first(self, disks):
        taken = []
        try:
            for port in (9001, 9002):
                one = socket.socket()
                try:
                    one.bind(("127.0.0.1", port))
                except OSError:
                    one.close()  # somebody else has it: as good
                    continue
                one.listen()
                taken.append(one)
            said = self.install("--demo", *disks)
        finally:
            for one in taken:
                one.close()
        port = int(re.search(r"Larder serves S3 at http://127\.0\.0\.1:(\d+)", said)[1])
        check(port not in (9000, 9001, 9002), f"it says it serves at {port}, which is taken")
        check("detached" in said or "in the background" in said, "it does not say how it runs")
        check("lost disk" in said, "it does not say what --demo does not protect from")
        check(self.config.stat().st_mode & 0o777 == 0o600, "the configuration is readable by others")
        check(self.data.stat().st_mode & 0o777 == 0o700, "the data directory is open to others")
        self.curl_line(said)

    def second(self, disks):
        before, pid = self.config.read_bytes(), self.pid_file.read_text()
        said = self.install("--demo", *disks)
        check(self.config.read_bytes() == before, "the configuration changed")
        check(self.pid_file.read_text() != pid, "the server was not restarted")
        self.curl_line(said)
        self.said = said

    def stop_line(self):
        pid = int(self.pid_file.read_text())
        run([self.home / ".local/bin/larder", "version"], self.env)
        run(["bash", "-c", re.search(r"(?m)^  stop +(.*)$", self.said)[1]], self.env)
        check(not runs(pid), "the server still runs")
        run([self.home / ".local/bin/larder", "version"], self.env)
        self.curl_line(self.install())

    def uninstall(self):
        pid = int(self.pid_file.read_text())
        self.install("--uninstall")
        check(not runs(pid), "the server still runs")
        check(not (self.home / ".local/bin/larder").exists(), "the binary is still there")
        check(self.config.exists() and any(self.data.iterdir()), "data went with the binary")
        self.curl_line(self.install())

    def purge(self):
        self.install("--purge", stdin="no\n", code=1)
        self.install("--purge", stdin="purge\nno\n", code=1)
        check(self.config.exists() and self.pid_file.exists(), "a refused purge removed something")
        self.install("--purge", stdin=f"purge\n{self.data}\n")
        for gone in [self.config, self.data, self.pid_file, *(disk / "larder" for disk in self.disks)]:
            check(not os.path.lexists(gone), f"{gone} is still there")
        check(all(disk.is_dir() for disk in self.disks), "a disk's own directory was removed")


CLIENTS = {"install.sh": Install}

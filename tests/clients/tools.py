"""Programs that speak S3, each with a real source tree in and out again."""

import shutil
import urllib.request

from world import MIB, REGION, check, manifest, patterned, run, same_files


class Client:
    """One program. `journey` yields the steps of its test as (name, function)."""

    program = ""
    version = ()

    def __init__(self, world, env):
        self.world, self.env = world, dict(env)
        self.bucket = f"from-{self.program}"
        self.home = world.home / f"client-{self.program}"
        self.home.mkdir()
        self.expected = manifest(world.tree)
        self.prepare()

    def prepare(self):
        pass

    def call(self, *arguments, ok=(0,), stdin=None):
        return run([self.program, *arguments], self.env, cwd=self.world.home, ok=ok, stdin=stdin)

    def version_line(self):
        found = shutil.which(self.program, path=self.env["PATH"])
        check(found, f"{self.program} is not installed")
        line = run([found, *self.version], self.env).strip().splitlines()[0]
        return line if line.startswith(self.program) else f"{self.program} {line}"

    def out(self, name):
        path = self.home / name
        path.mkdir()
        return path

    def tree_comes_back(self, path, root=None):
        same_files(self.expected, root or path)
        shutil.rmtree(path)


class Aws(Client):
    program = "aws"
    version = ("--version",)

    def prepare(self):
        # Version 1 of the program presigns by the old scheme unless it is told.
        config = self.home / "config"
        config.write_text("[default]\ns3 =\n    signature_version = s3v4\n")
        self.env["AWS_CONFIG_FILE"] = str(config)

    def journey(self):
        bucket, tree = f"s3://{self.bucket}", self.world.tree

        def sync():
            self.call("s3", "mb", bucket)
            self.call("s3", "sync", "--only-show-errors", tree, f"{bucket}/tree/")
            out = self.out("sync")
            self.call("s3", "sync", "--only-show-errors", f"{bucket}/tree/", out)
            self.tree_comes_back(out)

        def again():
            said = self.call("s3", "sync", tree, f"{bucket}/tree/")
            check("upload:" not in said, "a second sync sent files again")
            said = self.call("s3", "ls", "--recursive", "--summarize", f"{bucket}/tree/")
            check(f"Total Objects: {len(self.expected)}" in said, "ls counts other objects than were sent")

        def large():
            source, back = self.home / "large", self.home / "large.back"
            source.write_bytes(patterned(60 * MIB + 3))
            self.call("s3", "cp", "--only-show-errors", source, f"{bucket}/large")
            self.call("s3", "mv", "--only-show-errors", f"{bucket}/large", f"{bucket}/moved")
            self.call("s3", "cp", "--only-show-errors", f"{bucket}/moved", back)
            check(source.read_bytes() == back.read_bytes(), "other bytes came back")

        def stream():
            self.call("s3", "cp", "-", f"{bucket}/stream", stdin=b"from a pipe")
            check(self.call("s3", "cp", f"{bucket}/stream", "-") == "from a pipe", "other bytes came back")

        def presign():
            url = self.call("s3", "presign", f"{bucket}/stream").strip()
            with urllib.request.urlopen(url, timeout=30) as answer:
                check(answer.read() == b"from a pipe", "other bytes came back")

        def remove():
            self.call("s3", "rb", "--force", bucket)
            check(self.bucket not in self.call("s3", "ls"), "the bucket is still listed")

        yield "s3 sync of a source tree in and out", sync
        yield "a second sync has nothing to do", again
        yield "s3 cp and mv of a large file in parts", large
        yield "s3 cp from and to a pipe", stream
        yield "s3 presign", presign
        yield "s3 rb --force", remove


class Rclone(Client):
    program = "rclone"
    version = ("version",)

    def prepare(self):
        larder = self.world.larder
        self.env |= {
            "RCLONE_CONFIG": str(self.home / "rclone.conf"),
            "RCLONE_CONFIG_LARDER_TYPE": "s3",
            "RCLONE_CONFIG_LARDER_PROVIDER": "Other",
            "RCLONE_CONFIG_LARDER_ACCESS_KEY_ID": larder.key,
            "RCLONE_CONFIG_LARDER_SECRET_ACCESS_KEY": larder.secret,
            "RCLONE_CONFIG_LARDER_ENDPOINT": larder.endpoint,
            "RCLONE_CONFIG_LARDER_FORCE_PATH_STYLE": "true",
            "RCLONE_RETRIES": "1",
            "RCLONE_LOW_LEVEL_RETRIES": "1",
        }
        (self.home / "rclone.conf").touch()

    def journey(self):
        bucket, tree = f"larder:{self.bucket}", self.world.tree

        def sync():
            self.call("mkdir", bucket)
            self.call("sync", tree, f"{bucket}/tree")
            self.call("check", "--download", tree, f"{bucket}/tree")
            out = self.out("sync")
            self.call("sync", f"{bucket}/tree", out)
            self.tree_comes_back(out)

        def again():
            self.call("check", "--one-way", tree, f"{bucket}/tree")
            # Exit code 9: nothing had to be transferred.
            self.call("sync", "--error-on-no-transfer", tree, f"{bucket}/tree", ok=(9,))

        def parts():
            source = self.home / "large"
            source.mkdir()
            (source / "file").write_bytes(patterned(33 * MIB + 5))
            cut = ["--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M"]
            self.call("copy", *cut, source, f"{bucket}/large")
            self.call("copy", "--s3-copy-cutoff", "6M", f"{bucket}/large", f"{bucket}/copied")
            self.call("check", "--download", source, f"{bucket}/copied")

        def stream():
            self.call("rcat", f"{bucket}/stream", stdin=b"from a pipe")
            check(self.call("cat", f"{bucket}/stream") == "from a pipe", "other bytes came back")

        def remove():
            self.call("purge", bucket)
            check(self.bucket not in self.call("lsd", "larder:"), "the bucket is still listed")

        yield "sync and check of a source tree in and out", sync
        yield "a second sync has nothing to do", again
        yield "copy in parts, then by the server", parts
        yield "rcat and cat", stream
        yield "purge", remove


class S3cmd(Client):
    program = "s3cmd"
    version = ("--version",)

    def prepare(self):
        larder = self.world.larder
        host = larder.endpoint.removeprefix("http://")
        self.config = self.home / "s3cfg"
        self.config.write_text("\n".join([
            "[default]",
            f"access_key = {larder.key}",
            f"secret_key = {larder.secret}",
            f"host_base = {host}",
            f"host_bucket = {host}",
            # Without it s3cmd signs for a region called "US".
            f"bucket_location = {REGION}",
            "use_https = False",
            "max_retries = 1",
            "",
        ]))

    def s3cmd(self, *arguments):
        return self.call("--config", self.config, "--quiet", *arguments)

    def journey(self):
        bucket, tree = f"s3://{self.bucket}", self.world.tree

        def sync():
            self.s3cmd("mb", bucket)
            self.s3cmd("sync", f"{tree}/", f"{bucket}/tree/")
            out = self.out("sync")
            self.s3cmd("sync", f"{bucket}/tree/", f"{out}/")
            self.tree_comes_back(out)

        def again():
            said = self.call("--config", self.config, "sync", "--dry-run", f"{tree}/", f"{bucket}/tree/")
            check("upload:" not in said, "a second sync would send files again")

        def parts():
            source, back = self.home / "large", self.home / "large.back"
            source.write_bytes(patterned(23 * MIB + 9))
            self.s3cmd("--multipart-chunk-size-mb=5", "put", source, f"{bucket}/large")
            self.s3cmd("get", f"{bucket}/large", back)
            check(source.read_bytes() == back.read_bytes(), "other bytes came back")

        def remove():
            self.s3cmd("del", "--recursive", "--force", f"{bucket}/")
            self.s3cmd("rb", bucket)
            check(self.bucket not in self.call("--config", self.config, "ls"), "the bucket is still listed")

        yield "sync of a source tree in and out", sync
        yield "a second sync has nothing to do", again
        yield "put in parts and get", parts
        yield "del --recursive and rb", remove


class S5cmd(Client):
    program = "s5cmd"
    version = ("version",)

    def s5cmd(self, *arguments):
        endpoint = self.world.larder.endpoint
        return self.call("--endpoint-url", endpoint, "--retry-count", "0", "--log", "error", *arguments)

    def journey(self):
        bucket, tree = f"s3://{self.bucket}", self.world.tree

        def copy():
            self.s5cmd("mb", bucket)
            self.s5cmd("cp", f"{tree}/", f"{bucket}/tree/")
            out = self.out("copy")
            self.s5cmd("cp", f"{bucket}/tree/*", f"{out}/")
            self.tree_comes_back(out)

        def sync():
            self.s5cmd("sync", f"{tree}/", f"{bucket}/synced/")
            out = self.out("sync")
            self.s5cmd("sync", f"{bucket}/synced/*", f"{out}/")
            self.tree_comes_back(out)

        def parts():
            source, back = self.home / "large", self.home / "large.back"
            source.write_bytes(patterned(40 * MIB + 1))
            self.s5cmd("cp", "--part-size", "5", "--concurrency", "4", source, f"{bucket}/large")
            self.s5cmd("cp", "--part-size", "5", "--concurrency", "4", f"{bucket}/large", back)
            check(source.read_bytes() == back.read_bytes(), "other bytes came back")

        def remove():
            self.s5cmd("rm", f"{bucket}/*")
            self.s5cmd("rb", bucket)
            check(self.bucket not in self.s5cmd("ls"), "the bucket is still listed")

        yield "cp of a source tree in and out", copy
        yield "sync of a source tree in and out", sync
        yield "cp in parallel parts", parts
        yield "rm and rb", remove


class Restic(Client):
    program = "restic"
    version = ("version",)

    def prepare(self):
        self.env |= {
            "RESTIC_PASSWORD": "not a secret",
            "RESTIC_CACHE_DIR": str(self.home / "cache"),
            "RESTIC_REPOSITORY": f"s3:{self.world.larder.endpoint}/{self.bucket}/repository",
        }

    def journey(self):
        tree = self.world.tree

        def backup():
            self.call("init")
            self.call("backup", "--quiet", tree)
            self.call("check", "--read-data")

        def restore():
            out = self.out("restore")
            self.call("restore", "latest", "--target", out)
            self.tree_comes_back(out, out.joinpath(*tree.parts[1:]))

        def prune():
            extra = self.home / "more"
            extra.mkdir()
            (extra / "file").write_bytes(patterned(9 * MIB))
            self.call("backup", "--quiet", extra)
            self.call("forget", "--quiet", "--keep-last", "1", "--group-by", "", "--prune")
            self.call("check", "--read-data")
            out = self.out("pruned")
            self.call("restore", "latest", "--target", out)
            same_files(manifest(extra), out.joinpath(*extra.parts[1:]))

        yield "init, backup and check", backup
        yield "restore gives the same files", restore
        yield "forget, prune and check", prune


CLIENTS = {"aws": Aws, "rclone": Rclone, "s3cmd": S3cmd, "s5cmd": S5cmd, "restic": Restic}

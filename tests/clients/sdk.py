"""boto3: what an application does, and what it may rely on."""

import base64
import concurrent.futures
import hashlib
import io
import urllib.error
import urllib.request
import uuid

from world import MIB, REGION, check, patterned

KEYS = 1234  # more than one page of a listing, and more than one DeleteObjects


class Boto3:
    program = "boto3"

    def __init__(self, world, _env):
        self.world = world
        self.bucket = "from-boto3"

    def version_line(self):
        import boto3
        import botocore

        return f"boto3 {boto3.__version__}, botocore {botocore.__version__}"

    def client(self, key=None, secret=None, **config):
        import boto3
        from botocore.config import Config

        larder = self.world.larder
        return boto3.session.Session().client(
            "s3",
            endpoint_url=larder.endpoint,
            region_name=REGION,
            aws_access_key_id=key or larder.key,
            aws_secret_access_key=secret or larder.secret,
            config=Config(
                signature_version="s3v4",
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                max_pool_connections=20,
                **config,
            ),
        )

    def journey(self):
        self.s3 = self.client()
        self.s3.create_bucket(Bucket=self.bucket)
        for name, step in [
            ("put, head and get with metadata", self.plain),
            ("keys keep every byte", self.keys),
            ("ranges", self.ranges),
            ("conditional reads", self.conditional_reads),
            ("conditional writes", self.conditional_writes),
            ("ten writers, one If-None-Match wins", self.one_winner),
            ("checksums of every kind, and wrong ones", self.checksums),
            ("transfer manager up, copy and down in parts", self.transfer),
            ("multipart by hand", self.multipart),
            ("abort leaves no upload", self.abort),
            ("copy, metadata and tags", self.copy),
            ("paginators and delete_objects", self.pages),
            ("presigned URLs", self.presigned),
            ("POST form", self.post_form),
            ("lifecycle rules come back as they were put", self.lifecycle),
            ("errors have S3's codes", self.errors),
        ]:
            yield name, step

    # ---- Helpers.

    def put(self, key, body, **more):
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    def get(self, key, **more):
        return self.s3.get_object(Bucket=self.bucket, Key=key, **more)["Body"].read()

    def refused(self, code, call, /, **arguments):
        """The call is answered with this error code; S3 sends a bare status where there is no body."""
        from botocore.exceptions import ClientError

        try:
            call(**arguments)
        except ClientError as error:
            found = error.response["Error"]["Code"]
            check(found == code, f"{call.__name__}: {found} instead of {code}")
        else:
            check(False, f"{call.__name__} was accepted instead of {code}")

    # ---- Steps.

    def plain(self):
        self.put(
            "plain", b"hello", ContentType="text/x-larder", CacheControl="max-age=7",
            ContentDisposition='attachment; filename="x"', ContentLanguage="de",
            Metadata={"colour": "green", "Mixed-Case": "kept"},
        )
        for found in [
            self.s3.head_object(Bucket=self.bucket, Key="plain"),
            self.s3.get_object(Bucket=self.bucket, Key="plain"),
        ]:
            check(found["ContentType"] == "text/x-larder", "other content type")
            check(found["CacheControl"] == "max-age=7", "other cache control")
            check(found["ContentDisposition"] == 'attachment; filename="x"', "other disposition")
            check(found["ContentLanguage"] == "de", "other language")
            check(found["ContentLength"] == 5, "other length")
            check(found["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"', "the ETag is not the MD5")
            check(found["Metadata"] == {"colour": "green", "mixed-case": "kept"}, "other metadata")
        answer = self.s3.get_object(
            Bucket=self.bucket, Key="plain", ResponseContentType="text/other")
        check(answer["ContentType"] == "text/other", "response-content-type was ignored")
        for size in [0, 1, 65535, 65536, 65537, MIB, 8 * MIB + 1]:
            body = patterned(size)
            self.put(f"size/{size}", body)
            check(self.get(f"size/{size}") == body, f"other bytes came back for {size}")

    def keys(self):
        names = ["a", "a/", "a//b", "a/b", "./a", "../a", "a/../b", "/lead", "trail/", "with space ",
                 "plus+", "100%", "%2F", "ü/漢字/😀", "tab\tand\nline", "quote'\"", "back\\slash",
                 "star*?[x]", "con", "x" * 1024, "d/" + "y" * 300]
        for name in names:
            self.put(f"k:{name}"[:1024], name.encode())
        for name in names:
            check(self.get(f"k:{name}"[:1024]) == name.encode(), f"another object came back for {name!r}")
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="k:")
        listed = [entry["Key"] for entry in found["Contents"]]
        check(sorted(listed, key=str.encode) == listed, "the listing is not in byte order")
        check(set(listed) == {f"k:{name}"[:1024] for name in names}, "the listing names other keys")

    def ranges(self):
        body = patterned(3 * MIB + 17)
        self.put("ranged", body)
        last = len(body) - 1
        for text, first, end in [
            ("bytes=0-0", 0, 1), (f"bytes={MIB - 1}-{MIB}", MIB - 1, MIB + 1), ("bytes=-5", last - 4, last + 1),
            (f"bytes={last}-", last, last + 1), (f"bytes=7-{last + 99}", 7, last + 1),
        ]:
            answer = self.s3.get_object(Bucket=self.bucket, Key="ranged", Range=text)
            check(answer["Body"].read() == body[first:end], f"other bytes for {text}")
            check(answer["ContentRange"] == f"bytes {first}-{end - 1}/{len(body)}", f"other range for {text}")
            check(answer["ResponseMetadata"]["HTTPStatusCode"] == 206, f"no 206 for {text}")
        self.refused("InvalidRange", self.s3.get_object, Bucket=self.bucket, Key="ranged",
                     Range=f"bytes={len(body)}-")

    def conditional_reads(self):
        etag = self.put("cond", b"one")["ETag"]
        check(self.get("cond", IfMatch=etag) == b"one", "If-Match of the present ETag")
        self.refused("PreconditionFailed", self.s3.get_object, Bucket=self.bucket, Key="cond", IfMatch='"no"')
        self.refused("304", self.s3.get_object, Bucket=self.bucket, Key="cond", IfNoneMatch=etag)
        when = self.s3.head_object(Bucket=self.bucket, Key="cond")["LastModified"]
        self.refused("304", self.s3.head_object, Bucket=self.bucket, Key="cond", IfModifiedSince=when)

    def conditional_writes(self):
        etag = self.put("once", b"first", IfNoneMatch="*")["ETag"]
        put = {"Bucket": self.bucket, "Key": "once", "Body": b"second"}
        self.refused("PreconditionFailed", self.s3.put_object, **put, IfNoneMatch="*")
        self.refused("PreconditionFailed", self.s3.put_object, **put, IfMatch='"0123456789abcdef"')
        check(self.get("once") == b"first", "a refused write changed the object")
        self.s3.put_object(**put, IfMatch=etag)
        check(self.get("once") == b"second", "an allowed write did not happen")
        self.refused("NoSuchKey", self.s3.put_object, Bucket=self.bucket, Key="nowhere", Body=b"x", IfMatch=etag)

    def one_winner(self):
        from botocore.exceptions import ClientError

        def write(number):
            try:
                self.put("race", patterned(100_000 + number), IfNoneMatch="*", Metadata={"n": str(number)})
                return number
            except ClientError as error:
                code = error.response["Error"]["Code"]
                check(code in ("PreconditionFailed", "ConditionalRequestConflict"), f"refused with {code}")
                return None

        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            winners = [n for n in pool.map(write, range(10)) if n is not None]
        check(len(winners) == 1, f"{len(winners)} writers won")
        answer = self.s3.get_object(Bucket=self.bucket, Key="race")
        check(answer["Metadata"]["n"] == str(winners[0]), "another writer's metadata")
        check(answer["Body"].read() == patterned(100_000 + winners[0]), "another writer's bytes")

    def checksums(self):
        body = patterned(200_000)
        for kind in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
            sent = self.put(f"sum/{kind}", io.BytesIO(body), ChecksumAlgorithm=kind)
            head = self.s3.head_object(Bucket=self.bucket, Key=f"sum/{kind}", ChecksumMode="ENABLED")
            check(sent.get(f"Checksum{kind}"), f"{kind} is not in the answer")
            check(head.get(f"Checksum{kind}") == sent[f"Checksum{kind}"], f"{kind} is not kept")
            check(self.get(f"sum/{kind}", ChecksumMode="ENABLED") == body, "other bytes came back")
        expected = base64.b64encode(hashlib.sha256(body).digest()).decode()
        attributes = self.s3.get_object_attributes(
            Bucket=self.bucket, Key="sum/SHA256", ObjectAttributes=["Checksum", "ObjectSize", "ETag"])
        check(attributes["Checksum"]["ChecksumSHA256"] == expected, "other SHA-256 in the attributes")
        check(attributes["ObjectSize"] == len(body), "other size in the attributes")
        wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        self.refused("BadDigest", self.s3.put_object, Bucket=self.bucket, Key="bad", Body=body, ChecksumSHA256=wrong)
        wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
        self.refused("BadDigest", self.s3.put_object, Bucket=self.bucket, Key="bad", Body=body, ContentMD5=wrong)
        self.refused("404", self.s3.head_object, Bucket=self.bucket, Key="bad")

    def transfer(self):
        from boto3.s3.transfer import TransferConfig

        parts = TransferConfig(multipart_threshold=6 * MIB, multipart_chunksize=5 * MIB, max_concurrency=6)
        body = patterned(47 * MIB + 11)
        self.s3.upload_fileobj(io.BytesIO(body), self.bucket, "managed", Config=parts,
                               ExtraArgs={"ContentType": "application/x-large"})
        source = {"Bucket": self.bucket, "Key": "managed"}
        self.s3.copy(source, self.bucket, "managed copy", Config=parts)
        for key in ["managed", "managed copy"]:
            head = self.s3.head_object(Bucket=self.bucket, Key=key)
            check(head["ETag"].endswith('-10"'), f"{key} has no ETag of 10 parts: {head['ETag']}")
            back = io.BytesIO()
            self.s3.download_fileobj(self.bucket, key, back, Config=parts)
            check(back.getvalue() == body, f"other bytes came back for {key}")

    def multipart(self):
        key = {"Bucket": self.bucket, "Key": "by hand"}
        upload = self.s3.create_multipart_upload(**key, Metadata={"from": "parts"}, ChecksumAlgorithm="SHA256")
        upload_id = {"UploadId": upload["UploadId"]}
        bodies = {1: patterned(5 * MIB), 3: patterned(5 * MIB + 1), 7: b"the end"}
        parts = []
        for number in [7, 1, 3]:
            sent = self.s3.upload_part(**key, **upload_id, PartNumber=number, Body=bodies[number],
                                       ChecksumAlgorithm="SHA256")
            parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": sent["ChecksumSHA256"]})
        pages = self.s3.get_paginator("list_parts").paginate(
            **key, **upload_id, PaginationConfig={"PageSize": 2})
        listed = [part["PartNumber"] for page in pages for part in page["Parts"]]
        check(listed == [1, 3, 7], f"list_parts gives {listed}")
        uploads = self.s3.list_multipart_uploads(Bucket=self.bucket)["Uploads"]
        check([u["Key"] for u in uploads] == ["by hand"], "the upload is not listed")
        self.refused("InvalidPartOrder", self.s3.complete_multipart_upload, **key, **upload_id,
                     MultipartUpload={"Parts": parts})
        parts.sort(key=lambda part: part["PartNumber"])
        wrong = [{**parts[0], "ETag": '"00000000000000000000000000000000"'}, *parts[1:]]
        self.refused("InvalidPart", self.s3.complete_multipart_upload, **key, **upload_id,
                     MultipartUpload={"Parts": wrong})
        done = self.s3.complete_multipart_upload(**key, **upload_id, MultipartUpload={"Parts": parts})
        whole = b"".join(bodies[number] for number in sorted(bodies))
        digests = b"".join(hashlib.md5(bodies[number]).digest() for number in sorted(bodies))
        check(done["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-3"', f"another ETag: {done['ETag']}")
        again = self.s3.complete_multipart_upload(**key, **upload_id, MultipartUpload={"Parts": parts})
        check(again["ETag"] == done["ETag"], "a repeated complete answers otherwise")
        answer = self.s3.get_object(**key)
        check(answer["Body"].read() == whole, "other bytes came back")
        check(answer["Metadata"] == {"from": "parts"}, "other metadata")
        one = self.s3.get_object(**key, PartNumber=3)
        check(one["Body"].read() == bodies[3], "partNumber gives other bytes")
        check(one["PartsCount"] == 3, f"{one['PartsCount']} parts are counted")
        self.refused("InvalidPartNumber", self.s3.get_object, **key, PartNumber=2)

    def abort(self):
        key = {"Bucket": self.bucket, "Key": "given up"}
        upload_id = {"UploadId": self.s3.create_multipart_upload(**key)["UploadId"]}
        self.s3.upload_part(**key, **upload_id, PartNumber=1, Body=patterned(5 * MIB))
        self.s3.abort_multipart_upload(**key, **upload_id)
        self.refused("NoSuchUpload", self.s3.upload_part, **key, **upload_id, PartNumber=2, Body=b"late")
        check(not self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads"), "an upload is still listed")
        self.refused("NoSuchKey", self.s3.get_object, **key)

    def copy(self):
        self.put("from", b"copied", ContentType="text/a", Metadata={"m": "1"}, Tagging="colour=red")
        source = {"Bucket": self.bucket, "Key": "from"}
        self.s3.copy_object(Bucket=self.bucket, Key="to", CopySource=source)
        head = self.s3.head_object(Bucket=self.bucket, Key="to")
        check((head["ContentType"], head["Metadata"]) == ("text/a", {"m": "1"}), "metadata was not copied")
        tags = self.s3.get_object_tagging(Bucket=self.bucket, Key="to")["TagSet"]
        check(tags == [{"Key": "colour", "Value": "red"}], "tags were not copied")
        self.s3.copy_object(Bucket=self.bucket, Key="to", CopySource=source, MetadataDirective="REPLACE",
                            Metadata={"m": "2"}, ContentType="text/b")
        head = self.s3.head_object(Bucket=self.bucket, Key="to")
        check((head["ContentType"], head["Metadata"]) == ("text/b", {"m": "2"}), "metadata was not replaced")
        self.s3.put_object_tagging(Bucket=self.bucket, Key="to",
                                   Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
        self.s3.delete_object_tagging(Bucket=self.bucket, Key="to")
        check(self.s3.get_object_tagging(Bucket=self.bucket, Key="to")["TagSet"] == [], "tags are still there")
        self.s3.delete_object(Bucket=self.bucket, Key="from")
        check(self.get("to") == b"copied", "deleting the source took the copy's bytes")

    def pages(self):
        keys = [f"page/{n % 40:02}/{n:05}" for n in range(KEYS)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: self.put(key, key.encode()), keys))
        keys.sort()
        for verb in ["list_objects", "list_objects_v2"]:
            for size in [1000, 97]:
                pages = self.s3.get_paginator(verb).paginate(
                    Bucket=self.bucket, Prefix="page/", PaginationConfig={"PageSize": size})
                found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
                check(found == keys, f"{verb} by {size} gives {len(found)} keys, or another order")
            pages = self.s3.get_paginator(verb).paginate(
                Bucket=self.bucket, Prefix="page/", Delimiter="/", PaginationConfig={"PageSize": 7})
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
            check(found == [f"page/{n:02}/" for n in range(40)], f"{verb} gives other common prefixes")
        after = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="page/", StartAfter=keys[-3])
        check([entry["Key"] for entry in after["Contents"]] == keys[-2:], "StartAfter gives other keys")
        for start in range(0, KEYS, 1000):
            batch = [{"Key": key} for key in keys[start:start + 1000]]
            answer = self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})
            check(not answer.get("Errors"), "delete_objects reports errors")
        left = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="page/")
        check(left["KeyCount"] == 0, f"{left['KeyCount']} keys are left")

    def presigned(self):
        target = {"Bucket": self.bucket, "Key": "pre signed/ü"}
        url = self.s3.generate_presigned_url("put_object", Params=target, ExpiresIn=60)
        request = urllib.request.Request(url, data=b"by URL", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            check(answer.status == 200, f"PUT gives {answer.status}")
        url = self.s3.generate_presigned_url("get_object", Params=target, ExpiresIn=60)
        with urllib.request.urlopen(url, timeout=30) as answer:
            check(answer.read() == b"by URL", "other bytes came back")
        changed = url.replace("X-Amz-Expires=60", "X-Amz-Expires=61")
        check(changed != url and status_of(changed) == 403, "a changed URL is accepted")
        check(status_of(f"{self.world.larder.endpoint}/{self.bucket}/plain") == 403, "no signature is accepted")

    def post_form(self):
        form = self.s3.generate_presigned_post(
            self.bucket, "posted/${filename}", Fields={"x-amz-meta-by": "form"},
            Conditions=[{"x-amz-meta-by": "form"}, ["content-length-range", 1, 1000]], ExpiresIn=60)
        check(post(form, b"from a form", "name.txt") in (200, 204), "the form was refused")
        answer = self.s3.get_object(Bucket=self.bucket, Key="posted/name.txt")
        check(answer["Body"].read() == b"from a form", "other bytes came back")
        check(answer["Metadata"] == {"by": "form"}, "other metadata")
        check(post(form, b"x" * 2000, "long.txt") == 400, "a file above the policy's length is accepted")
        form["fields"]["x-amz-meta-by"] = "somebody"
        check(post(form, b"again", "other.txt") == 403, "a field against the policy is accepted")

    def lifecycle(self):
        bucket = {"Bucket": self.bucket}
        rules = [
            {"ID": "logs", "Status": "Enabled", "Expiration": {"Days": 30}, "Filter": {"And": {
                "Prefix": "none-of-ours/", "Tags": [{"Key": "k", "Value": "v"}], "ObjectSizeGreaterThan": 5}}},
            {"ID": "uploads", "Status": "Disabled", "Filter": {"Prefix": ""},
             "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
        ]
        self.s3.put_bucket_lifecycle_configuration(**bucket, LifecycleConfiguration={"Rules": rules})
        found = self.s3.get_bucket_lifecycle_configuration(**bucket)["Rules"]
        check(found == rules, f"other rules came back: {found}")
        moves = {"Status": "Enabled", "Filter": {"Prefix": ""},
                 "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}
        self.refused("NotImplemented", self.s3.put_bucket_lifecycle_configuration, **bucket,
                     LifecycleConfiguration={"Rules": [moves]})
        self.s3.delete_bucket_lifecycle(**bucket)

    def errors(self):
        bucket = {"Bucket": self.bucket}
        self.refused("NoSuchKey", self.s3.get_object, **bucket, Key="absent")
        self.refused("NoSuchBucket", self.s3.list_objects_v2, Bucket="there-is-none")
        self.refused("BucketNotEmpty", self.s3.delete_bucket, **bucket)
        self.refused("InvalidBucketName", self.s3.create_bucket, Bucket="192.168.1.1")
        self.refused("SignatureDoesNotMatch", self.client(secret="x" * 40).list_buckets)
        self.refused("InvalidAccessKeyId", self.client(key="LKABSENT000000000000").list_buckets)
        self.refused("NotImplemented", self.s3.put_bucket_versioning, **bucket,
                     VersioningConfiguration={"Status": "Enabled"})
        self.refused("NoSuchLifecycleConfiguration", self.s3.get_bucket_lifecycle_configuration, **bucket)
        self.refused("NoSuchCORSConfiguration", self.s3.get_bucket_cors, **bucket)
        self.refused("NoSuchBucketPolicy", self.s3.get_bucket_policy, **bucket)
        check("Status" not in self.s3.get_bucket_versioning(**bucket), "versioning has a status")
        listed = [entry["Name"] for entry in self.s3.list_buckets()["Buckets"]]
        check(self.bucket in listed, "the bucket is not listed")


def status_of(request):
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def post(form, body, filename):
    """Sends a form as a browser does; returns the status."""
    border = uuid.uuid4().hex
    head = "".join(
        f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in form["fields"].items()
    )
    head += (
        f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: text/plain\r\n\r\n"
    )
    data = head.encode() + body + f"\r\n--{border}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={border}"}
    return status_of(urllib.request.Request(form["url"], data=data, headers=headers, method="POST"))


CLIENTS = {"boto3": Boto3}

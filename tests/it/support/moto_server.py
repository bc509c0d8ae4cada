# Starts moto's server, with two answers mended. It names the root of
# GetBucketVersioning's answer otherwise than S3 does, and aws-sdk-s3 refuses
# that; and it has no GetObjectRetention, although it keeps and heeds the locks.
# Its clock goes ahead by so many seconds as the file named by MOTO_AHEAD says.
# What was asked for of an archive is there at once, or after as many looks as
# MOTO_THAW_LOOKS says.
# moto keeps all in memory; where MOTO_JOURNAL names a file, what it is asked to
# change is written there first, and done again before it listens: one that was
# killed comes back with all that it had answered, and perhaps with what it had not.
# Where MOTO_RDS is set, a restore makes what Amazon makes: moto heeds no "false" that is
# asked for and takes the source's setting instead, so that a copy of a database that is
# protected from deletion could not be removed; it gives all databases the same resource
# id, takes what was restored to a point in time for a replica, and knows no snapshot of
# a cluster by its ARN.
import collections
import datetime
import hashlib
import io
import os
import pathlib
import pickle
import threading
import urllib.parse

from werkzeug.test import Client

from moto.core import serialize
from moto.moto_api import state_manager
from moto.moto_api._internal.recorder.models import Recorder
from moto.s3 import models
from moto.s3.responses import S3Response
from moto.server import DomainDispatcherApplication, create_backend_app, main

ROOTS = {"GetBucketVersioningResponse": "VersioningConfiguration"}


class Serializer(serialize.S3Serializer):
    def _serialize_body(self, body):
        return super()._serialize_body({ROOTS.get(root, root): inside for root, inside in body.items()})


def key_response_get(self, query, key_name, get=S3Response._key_response_get):
    if "retention" not in query:
        return get(self, query, key_name)
    version = query.get("versionId", [None])[0]
    key = self.backend.get_object(self.bucket_name, key_name, version_id=version)
    if key is None:
        return 404, {}, "<Error><Code>NoSuchKey</Code></Error>"
    if not key.lock_until:
        return 404, {}, "<Error><Code>NoSuchObjectLockConfiguration</Code></Error>"
    lock = f"<Mode>{key.lock_mode}</Mode><RetainUntilDate>{key.lock_until}</RetainUntilDate>"
    return 200, {"content-type": "application/xml"}, f"<Retention>{lock}</Retention>"


def utcnow(real=models.utcnow):
    ahead = os.environ.get("MOTO_AHEAD")
    return real() + datetime.timedelta(seconds=float(pathlib.Path(ahead).read_text()) if ahead else 0)


if "MOTO_THAW_LOOKS" in os.environ:
    looks = {"progression": "manual", "times": int(os.environ["MOTO_THAW_LOOKS"])}
    state_manager.set_transition("s3::keyrestore", looks)
models.utcnow = utcnow
serialize.SERVICE_SPECIFIC_SERIALIZERS["s3"]["rest-xml"] = Serializer
S3Response._key_response_get = key_response_get


def replay(path):
    """Does again what is written; what was written half when it was killed was never done."""
    client = Client(DomainDispatcherApplication(create_backend_app))
    whole = 0
    with open(path, "ab+") as file:
        file.seek(0)
        while True:
            try:
                method, url, headers, body = pickle.load(file)
            except (EOFError, pickle.UnpicklingError):
                break
            whole = file.tell()
            client.open(url, method=method, headers=headers, data=body)
        file.truncate(whole)


def keep(path):
    counts, lock = collections.Counter(), threading.Lock()
    journal = None

    def numbered(self, key_name, *args, real=models.FakeMultipart.__init__, **kwargs):
        # The same at each replay.
        real(self, key_name, *args, **kwargs)
        counts[key_name] += 1
        self.id = hashlib.sha256(f"{key_name} {counts[key_name]}".encode()).hexdigest()

    def record(self, request, body=None):
        if journal is None or request.method in ("GET", "HEAD"):
            return
        stream = request.environ["wsgi.input"]
        length = request.headers.get("Content-Length")
        ends = request.environ.get("wsgi.input_terminated")
        body = stream.read(int(length)) if length else stream.read() if ends else b""
        request.environ["wsgi.input"] = io.BytesIO(body)
        unsent = ("content-length", "transfer-encoding", "expect", "connection")
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in unsent]
        url = urllib.parse.urlsplit(request.raw_url)
        entry = pickle.dumps((request.method, url._replace(scheme="", netloc="").geturl(), headers, body))
        with lock:
            journal.write(entry)
            journal.flush()

    models.FakeMultipart.__init__ = numbered
    Recorder._record_request = record
    replay(path)
    journal = open(path, "ab")


def mend_rds():
    from moto.rds import models as rds

    backend = rds.RDSBackend
    off = ("deletion_protection", "publicly_accessible", "multi_az", "enable_iam_database_authentication")

    def as_asked(restore):
        def restored(self, *args):
            database = restore(self, *args)
            for name in off:
                if name in vars(database):
                    setattr(database, name, bool(args[-1].get(name)))
            database.source_db_instance_identifier = None
            return database

        return restored

    def numbered(self, *args, real=rds.DBInstance.__init__, **kwargs):
        real(self, *args, **kwargs)
        made = f"{self.db_instance_arn} {self.created.isoformat()}"
        self.dbi_resource_id = f"db-{hashlib.sha256(made.encode()).hexdigest()[:26].upper()}"

    def by_arn(self, snapshot, overrides, real=backend.restore_db_cluster_from_snapshot):
        return real(self, rds.split_arn(snapshot)[3] if snapshot.startswith("arn:") else snapshot, overrides)

    rds.DBInstance.__init__ = numbered
    backend.restore_db_cluster_from_snapshot = as_asked(by_arn)
    for name in ("restore_db_instance_from_db_snapshot", "restore_db_instance_to_point_in_time"):
        setattr(backend, name, as_asked(getattr(backend, name)))


if "MOTO_RDS" in os.environ:
    mend_rds()
if "MOTO_JOURNAL" in os.environ:
    keep(os.environ["MOTO_JOURNAL"])
main()

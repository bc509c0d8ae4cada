# Starts moto's server, with two answers mended. It names the root of
# GetBucketVersioning's answer otherwise than S3 does, and aws-sdk-s3 refuses
# that; and it has no GetObjectRetention, although it keeps and heeds the locks.
# Its clock goes ahead by so many seconds as the file named by MOTO_AHEAD says.
import datetime
import os
import pathlib

from moto.core import serialize
from moto.s3 import models
from moto.s3.responses import S3Response
from moto.server import main

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


models.utcnow = utcnow
serialize.SERVICE_SPECIFIC_SERIALIZERS["s3"]["rest-xml"] = Serializer
S3Response._key_response_get = key_response_get

main()

"""Buckets with object lock, or versions only: on a server that then forgets conditional creates nothing of ours starts."""

import pytest
from minio import Minio
from minio.commonconfig import COMPLIANCE, ENABLED
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.versioningconfig import VersioningConfig

from adapter_store import open_store
from adapter_store.errors import UnsafeBackend
from tests.contract.rgw import Rgw

pytestmark = pytest.mark.s3


@pytest.mark.parametrize("kept", ["locked", "versioned"])
def test_a_bucket_that_keeps_versions_is_refused_where_creates_overwrite(
    kept: str, rgw: Rgw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph 16 takes `If-None-Match: *` for nothing in such a bucket: aliases and tenants would lose records there."""
    client = Minio(rgw.endpoint.removeprefix("http://"), rgw.access_key, rgw.secret_key, secure=False)
    client.make_bucket(kept, object_lock=kept == "locked")
    if kept == "locked":
        client.set_object_lock_config(kept, ObjectLockConfig(COMPLIANCE, 1, DAYS))
    else:
        client.set_bucket_versioning(kept, VersioningConfig(ENABLED))
    for condition in ({}, {"If-None-Match": "*"}):
        client._put_object(kept, "twice", b"bytes", headers=dict(condition))  # would fail where it is honoured
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
    with pytest.raises(UnsafeBackend, match="bucket without versioning"):
        open_store(f"s3://{kept}/here?endpoint={rgw.endpoint}&region=us-east-1")

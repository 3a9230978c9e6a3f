"""Where objects lie, as plain data, and the boto3 client that reaches them."""

import configparser
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config
from botocore.utils import is_valid_endpoint_url

from cxr_model.errors import ConfigError, SourceError, StorageError

_ATTEMPTS = 3
_CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class StoreLocation:
    """Names a place and holds no secret, so that tasks can hand it on."""

    endpoint_url: str | None = None
    """None: AWS."""
    public_url: str | None = None
    """Where those who are given a signed address reach the same server; None: where we do."""
    bucket: str
    prefix: str = ""
    """Folder in the bucket that every key is relative to."""
    credentials_file: Path | None = None
    """Keys of the embedded store, in the format of ``~/.aws/credentials``; None: boto3's
    usual chain."""

    def __post_init__(self) -> None:
        if not self.bucket:
            raise ConfigError("bucket='': set CXR_S3_BUCKET to the name of a bucket")
        for name in ("endpoint_url", "public_url"):
            url = getattr(self, name)
            if url is not None and not _is_address(url):
                raise ConfigError(
                    f"{name}={url!r}: set CXR_S3_{name.upper()} to an address like "
                    "https://host:port"
                )
            if (
                url is not None and "@" in urlsplit(url).netloc
            ):  # it would stand in logs and reports
                raise ConfigError(
                    f"CXR_S3_{name.upper()} holds a name or a password; keys go into "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                )

    @property
    def root(self) -> str:
        """What every key starts with in the bucket: empty, or ending in a slash."""
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""

    def uri(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{self.root}{key}"

    def at(self, uri: str) -> "StoreLocation":
        """``s3://bucket/prefix`` on the same server, with the same credentials."""
        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise SourceError(f"{uri}: write a source in object storage as s3://bucket/prefix")
        return replace(self, bucket=bucket, prefix=prefix)


def connect(location: StoreLocation, read_timeout_s: float) -> Any:
    """An S3 client that gives up on a dead server soon; raises what botocore raises."""
    keys = location.credentials_file and read_keys(location.credentials_file)
    access_key, secret_key = keys or (None, None)
    session = Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key)
    return session.client(
        "s3",
        endpoint_url=location.endpoint_url,
        region_name=session.region_name or "us-east-1",
        config=Config(
            signature_version="s3v4",  # other servers refuse addresses presigned with v2
            s3={"addressing_style": "path"} if location.endpoint_url else None,
            # Other servers do not all know the checksums that AWS has by default.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=read_timeout_s,
            proxies={} if keys else None,  # the embedded store is on loopback: no proxy
        ),
    )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and parts.port != 0 and is_valid_endpoint_url(url)
    except ValueError:  # a port that is no number
        return False


def read_keys(credentials_file: Path) -> tuple[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(credentials_file.read_text())
        return (
            parser.get("default", "aws_access_key_id"),
            parser.get("default", "aws_secret_access_key"),
        )
    except (OSError, configparser.Error) as error:
        raise StorageError(
            f"{credentials_file}: no keys can be read ({type(error).__name__}); delete it and "
            "start the store again, which writes a new one"
        ) from error

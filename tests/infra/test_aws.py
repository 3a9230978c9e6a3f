"""The bucket on AWS: the configuration parsed, and its policies held against the program."""

import re
from typing import Any

import hcl2
import pytest
from hcl2.utils import SerializationOptions
from infra_files import INFRA, ROOT

FOLDER = INFRA / "aws"
_PLAIN = SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
# Actions that Amazon asks for, by the client's methods that this program calls.
ACTION_OF = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "generate_presigned_url": "s3:GetObject",
    "put_object": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "get_paginator": "s3:ListBucket",
}
NO_ACTION = {"close", "exceptions", "meta"}


def blocks(kind: str) -> dict[str, Any]:
    """``TYPE.NAME`` (or ``NAME``, for blocks with one label) to the body of each block."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        for block in hcl2.loads(path.read_text(), serialization_options=_PLAIN).get(kind, []):
            ((first, body),) = block.items()
            if kind in ("resource", "data"):
                ((second, body),) = body.items()
                first = f"{first}.{second}"
            found[first] = body
    return found


def actions(policy: str) -> dict[str, list[str]]:
    """Action to the resources on which the policy allows it."""
    allowed: dict[str, list[str]] = {}
    for statement in blocks("data")[f"aws_iam_policy_document.{policy}"]["statement"]:
        assert statement.get("effect", "Allow") == "Allow"
        for action in statement["actions"]:
            allowed.setdefault(action, []).extend(statement["resources"])
    return allowed


def test_everything_that_is_referred_to_is_declared() -> None:
    text = "\n".join(path.read_text() for path in FOLDER.glob("*.tf"))
    assert set(re.findall(r"\bvar\.(\w+)", text)) == set(blocks("variable"))
    assert set(re.findall(r"\bdata\.(\w+\.\w+)", text)) == set(blocks("data"))
    named = set(re.findall(r"(?<!data\.)\b(aws_\w+\.\w+)", text))
    assert named <= set(blocks("resource"))
    assert all(each["description"] for each in blocks("variable").values())


def test_the_bucket_is_versioned_encrypted_and_private() -> None:
    resources = blocks("resource")
    versioning = resources["aws_s3_bucket_versioning.runs"]["versioning_configuration"]
    assert versioning == [{"status": "Enabled"}]
    encryption = resources["aws_s3_bucket_server_side_encryption_configuration.runs"]["rule"][0]
    assert encryption["apply_server_side_encryption_by_default"] == [{"sse_algorithm": "AES256"}]
    shut = resources["aws_s3_bucket_public_access_block.runs"]
    assert [value for name, value in shut.items() if name != "bucket"] == [True] * 4
    deny = blocks("data")["aws_iam_policy_document.tls_only"]["statement"][0]
    assert (deny["effect"], deny["condition"][0]["values"]) == ("Deny", ["false"])


def test_checkpoints_and_replaced_objects_expire_and_runs_do_not() -> None:
    rules = blocks("resource")["aws_s3_bucket_lifecycle_configuration.runs"]["rule"]
    checkpoints, noncurrent = rules
    assert checkpoints["filter"] == [{"prefix": "${local.root}checkpoints/"}]
    assert checkpoints["expiration"] == [{"days": "${var.checkpoint_days}"}]
    assert noncurrent["expiration"] == [{"expired_object_delete_marker": True}]
    assert noncurrent["noncurrent_version_expiration"] == [
        {"noncurrent_days": "${var.noncurrent_days}"}
    ]


def test_a_worker_may_do_what_the_program_does_and_no_more() -> None:
    source = (ROOT / "tasks/storage.py").read_text()
    called = set(re.findall(r"_client\.(\w+)", source))
    assert called - NO_ACTION - {"create_bucket"} == set(ACTION_OF)
    assert set(actions("worker")) == set(ACTION_OF.values())
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert actions("worker")[action] == ["${aws_s3_bucket.runs.arn}/${local.root}*"]


def test_a_reader_changes_nothing_and_sees_no_checkpoint() -> None:
    allowed = actions("reader")
    assert set(allowed) == {"s3:ListBucket", "s3:GetObject"}
    root = "${aws_s3_bucket.runs.arn}/${local.root}"
    assert allowed["s3:GetObject"] == [f"{root}runs/*", f"{root}models/*", f"{root}index.html"]


@pytest.mark.parametrize("policy", ["worker", "reader"])
def test_a_missing_object_is_told_from_a_forbidden_one(policy: str) -> None:
    # S3 answers 404 to those only who may list, without a condition on the prefix.
    (listing,) = (
        each
        for each in blocks("data")[f"aws_iam_policy_document.{policy}"]["statement"]
        if each["actions"] == ["s3:ListBucket"]
    )
    assert "condition" not in listing
    assert listing["resources"] == ["${aws_s3_bucket.runs.arn}"]

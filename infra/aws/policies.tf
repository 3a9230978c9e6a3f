# A worker does what tasks/storage.py does and no more: it makes no bucket, sees no versions and
# takes nothing back that versioning keeps. Listing is not limited to a prefix: S3 would answer
# 403, not 404, for an object that is not there, and the program tells these apart.
data "aws_iam_policy_document" "worker" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.runs.arn]
  }

  # Of the whole bucket: films may lie beside the folder of the runs.
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.runs.arn}/*"]
  }

  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.runs.arn}/${local.root}*"]
  }
}

# Whoever fetches reports and networks: published runs, models and the index page.
data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.runs.arn]
  }

  statement {
    sid     = "Read"
    actions = ["s3:GetObject"]
    resources = [
      "${aws_s3_bucket.runs.arn}/${local.root}runs/*",
      "${aws_s3_bucket.runs.arn}/${local.root}models/*",
      "${aws_s3_bucket.runs.arn}/${local.root}index.html",
    ]
  }
}

resource "aws_iam_policy" "worker" {
  name        = "${var.bucket}-worker"
  description = "Reads, writes and deletes objects of CXResnet; for the role of its workers."
  policy      = data.aws_iam_policy_document.worker.json
}

resource "aws_iam_policy" "reader" {
  name        = "${var.bucket}-reader"
  description = "Reads published runs and models of CXResnet."
  policy      = data.aws_iam_policy_document.reader.json
}

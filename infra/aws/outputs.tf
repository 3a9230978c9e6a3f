output "bucket" {
  description = "CXR_S3_BUCKET"
  value       = aws_s3_bucket.runs.bucket
}

output "worker_policy_arn" {
  description = "Attach it to the role of the workers, on EKS to that of the service account cxr-run."
  value       = aws_iam_policy.worker.arn
}

output "reader_policy_arn" {
  description = "Attach it to whoever fetches reports."
  value       = aws_iam_policy.reader.arn
}

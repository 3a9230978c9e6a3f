variable "bucket" {
  description = "Name of the bucket; CXR_S3_BUCKET of every worker."
  type        = string
}

variable "prefix" {
  description = "Folder in the bucket without slashes at its ends, or empty; CXR_S3_PREFIX of every worker."
  type        = string
  default     = ""

  validation {
    condition     = !startswith(var.prefix, "/") && !endswith(var.prefix, "/")
    error_message = "prefix: write it without slashes at its ends, as CXR_S3_PREFIX."
  }
}

variable "checkpoint_days" {
  description = "Days after which the checkpoint of a run that was never finished is removed."
  type        = number
  default     = 30
}

variable "noncurrent_days" {
  description = "Days for which an object that was replaced or deleted can be had back."
  type        = number
  default     = 30
}

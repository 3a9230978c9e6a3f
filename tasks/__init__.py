"""Thin Prefect tasks over `cxr_model`; the only place that talks to Kaggle and to S3."""

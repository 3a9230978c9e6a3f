"""What runs where and when: ``prefect.yaml`` and what applies it."""

"""Prefect flows, the settings they read from the environment, and the ``cxr`` command line."""

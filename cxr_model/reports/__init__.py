"""Self-contained pages and their figures."""

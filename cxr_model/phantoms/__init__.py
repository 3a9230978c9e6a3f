"""Synthetic radiographs with known lesions and, on request, known faults."""

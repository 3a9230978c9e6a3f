"""What measures speed against the references; each run puts them side by side."""

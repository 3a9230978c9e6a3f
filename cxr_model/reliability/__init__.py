"""How far a probability can be believed, and when none should be given."""

"""What is wrong with a set of films before anything is trained on it."""

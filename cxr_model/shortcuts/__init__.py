"""Whether the class can be told without the lungs."""

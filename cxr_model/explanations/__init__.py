"""What the network looks at, and how it is shown."""

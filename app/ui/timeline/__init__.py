"""The timeline widget and the plain data it is told."""

"""The canvas widget and the plain data it is told and reports."""

"""The headless commands, one module a verb; `program` finds them. Nothing here imports Qt or draws."""

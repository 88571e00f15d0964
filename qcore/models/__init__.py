"""The models the program knows: registry, checkpoints, download, and building `SAM2Base` modules."""

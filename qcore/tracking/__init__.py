"""Video tracking: prompts and memory in, one mask per object and frame out."""

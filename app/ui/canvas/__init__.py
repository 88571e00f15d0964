"""Drawing the frame, masks and prompts, and reporting what the mouse did."""

"""Q-MiniSAM2 Annotator: the desktop program and its command line. May import `qcore`, never the reverse."""

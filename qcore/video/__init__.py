"""Reading video: exact random access to presented frames of a file or a folder."""

"""The document: one project file, its objects, prompts and masklets, and every change to them."""

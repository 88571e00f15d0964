"""The document: one project file, its objects, prompts and masklets, and every change to them."""

from app.project.changes import Change, Edit, Key, Kind
from app.project.errors import ProjectError
from app.project.project import Project

__all__ = ["Change", "Edit", "Key", "Kind", "Project", "ProjectError"]

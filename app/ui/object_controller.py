"""What happens to whole objects: select, rename, class, colour, show, lock, delete, clear, accept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from PySide6.QtCore import QObject, QPoint, Qt, Signal
from PySide6.QtGui import QColor, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QColorDialog, QInputDialog, QMenu, QWidget

from app.project import edits
from app.project.changes import Change
from app.project.errors import ProjectError
from app.project.palette import davis_color, to_hex
from app.project.project import Project
from app.project.track_edits import merge_objects, split_object
from app.ui import icons, theme
from app.ui.document import Document
from app.ui.i18n import tr
from app.ui.objects_panel import ObjectsPanel, Part
from app.ui.shortcuts import ActionRegistry
from app.ui.state import Workspace
from qcore.masks import Rle, decode


class ObjectController(QObject):
    """Objects panel, its menu and the object keys."""

    failed = Signal(str)
    noticed = Signal(str)

    def __init__(
        self,
        panel: ObjectsPanel,
        actions: ActionRegistry,
        document: Document,
        workspace: Workspace,
        window: QWidget,
    ) -> None:
        super().__init__(window)
        self._panel = panel
        self._actions = actions
        self._document = document
        self._workspace = workspace
        self._window = window
        self._copied: tuple[int, Rle] | None = None
        """What `copy_mask` took: object id and mask."""
        panel.selected.connect(workspace.select)
        panel.renamed.connect(lambda i, name: self.do(lambda p: edits.rename_object(p, i, name)))
        panel.part_clicked.connect(self._part_clicked)
        panel.menu_requested.connect(self.show_menu)
        document.changed.connect(self._drop_gone)

    def do(self, make: Callable[[Project], Change]) -> None:
        """Make a change from the project and carry it out."""
        project = self._document.project
        if project is None:
            return
        try:
            self._document.do(make(project))
        except ProjectError as error:
            self.failed.emit(str(error))

    def do_all(self, changes: Callable[[Project], Sequence[Change]]) -> None:
        """Several changes of different objects as one step."""

        def make(project: Project) -> Change:
            parts = list(changes(project))
            merged = parts[0]
            for part in parts[1:]:
                merged = merged.followed_by(part)
            return merged

        if self._workspace.selection:
            self.do(make)

    def _drop_gone(self, _change: Change) -> None:
        project = self._document.project
        if project is not None and any(i not in project.objects for i in self._workspace.selection):
            self._workspace.select([i for i in self._workspace.selection if i in project.objects])

    # ---- selecting -------------------------------------------------------------------------------------

    def _ids(self) -> list[int]:
        project = self._document.project
        return sorted(project.objects) if project is not None else []

    def select_number(self, number: int) -> None:
        """Select the object with this number."""
        if number in self._ids():
            self._workspace.select([number])
        else:
            self.noticed.emit(tr("There is no object {0}.").format(number))

    def select_next(self, step: int) -> None:
        """Go through the objects in order of their numbers."""
        ids = self._ids()
        if ids:
            active = self._workspace.active
            position = ids.index(active) + step if active in ids else (0 if step > 0 else -1)
            self._workspace.select([ids[position % len(ids)]])

    def select_all(self) -> None:
        """Select every object."""
        self._workspace.select(self._ids(), self._workspace.active)

    def deselect(self) -> None:
        """No object: the next click makes a new one."""
        if self._document.is_open:
            self._workspace.select([])
            self.noticed.emit(tr("Click or drag a box on the next object."))

    def pick(self, x: float, y: float) -> int | None:
        """Select the topmost object at a place of the current frame."""
        project = self._document.project
        if project is None:
            return None
        for mask in project.masks_on(self._workspace.frame):
            track = project.objects[mask.object_id]
            if track.visible and decode(mask.rle)[int(y), int(x)]:
                self._workspace.select([mask.object_id])
                return mask.object_id
        return None

    # ---- the selected objects --------------------------------------------------------------------------

    def rename(self) -> None:
        """Rename the active object in place."""
        if self._workspace.active is not None:
            self._panel.edit_name(self._workspace.active)

    def toggle_visible(self) -> None:
        """Hide the selected objects, or show them when all are hidden."""
        chosen = self._workspace.selection

        def changes(project: Project) -> list[Change]:
            show = not any(project.objects[i].visible for i in chosen)
            return [edits.set_visible(project, i, show) for i in chosen]

        self.do_all(changes)

    def toggle_lock(self) -> None:
        """Lock the selected objects, or unlock them when all are locked."""
        chosen = self._workspace.selection

        def changes(project: Project) -> list[Change]:
            lock = not all(project.objects[i].locked for i in chosen)
            return [edits.set_locked(project, i, lock) for i in chosen]

        self.do_all(changes)

    def remove(self) -> None:
        """Delete the selected objects with everything that is theirs."""
        chosen = self._workspace.selection
        self.do_all(lambda project: [edits.remove_object(project, i) for i in chosen])

    def set_class(self, class_id: int | None) -> None:
        """Say what the selected objects are."""
        chosen = self._workspace.selection
        self.do_all(lambda project: [edits.set_object_class(project, i, class_id) for i in chosen])

    def set_class_number(self, number: int) -> None:
        """Give the selected objects the n-th class."""
        project = self._document.project
        if project is None:
            return
        ids = sorted(project.classes)
        if number > len(ids):
            self.noticed.emit(
                tr("There is no class {0} yet: right-click an object to add classes.").format(number)
            )
        else:
            self.set_class(ids[number - 1])

    def new_class(self) -> None:
        """Ask for a name, and give the selected objects the new class."""
        project = self._document.project
        if project is None:
            return
        name, accepted = QInputDialog.getText(self._window, tr("New class"), tr("Name of the class"))
        if not accepted or not name.strip():
            return
        known = next((c for c in project.classes.values() if c.name == name.strip()), None)
        if known is not None:
            self.set_class(known.class_id)
            return
        color = to_hex(davis_color(project.next_class_id % 254 + 1))
        change = edits.add_class(project, name, color)
        command = self._document.do(change)
        if command is None:
            return
        class_id = edits.added_id(change)
        for object_id in self._workspace.selection:
            command.extend(edits.set_object_class(project, object_id, class_id))

    def rename_class(self, class_id: int) -> None:
        """Ask for another name of a class."""
        label = self._document.need().classes[class_id]
        name, accepted = QInputDialog.getText(
            self._window, tr("Rename class"), tr("Name of the class"), text=label.name
        )
        if accepted and name.strip():
            self.do(lambda project: edits.change_class(project, class_id, name=name))

    def choose_color(self, object_id: int) -> None:
        """Ask for another colour."""
        project = self._document.project
        if project is None:
            return
        track = project.objects[object_id]
        color = QColorDialog.getColor(
            QColor(track.color), self._window, tr("Colour of {0}").format(track.name)
        )
        if color.isValid():
            self.do(lambda p: edits.recolor_object(p, object_id, color.name()))

    def merge(self, object_id: int, other_id: int) -> None:
        """Make two objects one."""
        self.do(lambda project: merge_objects(project, object_id, other_id))

    def split(self, object_id: int) -> None:
        """From the current frame on, the object is another one."""
        self.do(lambda project: split_object(project, object_id, self._workspace.frame))

    # ---- the current frame -----------------------------------------------------------------------------

    def copy_mask(self) -> None:
        """Take the active object's mask of the current frame for `paste_mask`."""
        project, active = self._document.project, self._workspace.active
        if project is None or active is None:
            return
        mask = project.mask(self._workspace.frame, active)
        if mask is None:
            self.noticed.emit(tr("There is no mask to copy on this frame."))
            return
        self._copied = (active, mask.rle)
        self.noticed.emit(tr("Mask of {0} copied.").format(project.objects[active].name))

    def paste_mask(self) -> None:
        """Give the active object the copied mask on this frame; without one, the object it came from."""
        project = self._document.project
        if project is None:
            return
        if self._copied is None:
            self.noticed.emit(tr("No mask was copied yet."))
            return
        origin, rle = self._copied
        target = self._workspace.active if self._workspace.active is not None else origin
        if target not in project.objects:
            self.noticed.emit(tr("Select the object that gets the mask."))
        elif rle.size != project.size:
            self.failed.emit(tr("The copied mask belongs to a video of another size."))
        else:
            title = tr("Paste mask of {0}").format(project.objects[target].name)
            frame = self._workspace.frame
            self.do(lambda p: replace(edits.set_mask(p, frame, target, rle), title=title))

    def clear(self) -> None:
        """Remove the selected objects' prompts and masks from the current frame."""
        frame, chosen = self._workspace.frame, self._workspace.selection
        if chosen:
            self.do(lambda p: edits.remove_masks(p, chosen, frame, frame))

    def clear_frame(self) -> None:
        """Remove all prompts and masks of the current frame."""
        self.do(lambda p: edits.clear_frame(p, self._workspace.frame))

    def clear_tracked(self) -> None:
        """Remove the selected objects' tracked masks within the range; keyframes stay."""
        chosen, (low, high) = self._workspace.selection, self._workspace.span
        if chosen:
            self.do(lambda p: edits.remove_masks(p, chosen, low, high, keep_protected=True))

    def accept(self) -> None:
        """Accept the masks of the selected objects on the current frame, of all without a selection."""
        frame = self._workspace.frame
        chosen = self._workspace.selection or None

        def make(project: Project) -> Change:
            change = edits.accept(project, [frame], chosen)
            if change.is_empty:
                self.noticed.emit(tr("There is nothing to accept on this frame."))
            return change

        self.do(make)

    # ---- mouse -----------------------------------------------------------------------------------------

    def _part_clicked(self, object_id: int, part: Part) -> None:
        project = self._document.project
        if project is None or object_id not in project.objects:
            return
        track = project.objects[object_id]
        if part is Part.COLOR:
            self.choose_color(object_id)
        elif part is Part.VISIBLE:
            self.do(lambda p: edits.set_visible(p, object_id, not track.visible))
        elif part is Part.LOCK:
            self.do(lambda p: edits.set_locked(p, object_id, not track.locked))

    def show_menu(self, place: QPoint, object_id: int) -> None:
        """The menu of an object."""
        if object_id not in self._workspace.selection:
            self._workspace.select([object_id])
        menu = self.build_menu(object_id)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(place)

    def build_menu(self, object_id: int) -> QMenu:
        """Everything that can be done to an object, with classes."""
        project = self._document.need()
        menu = QMenu(self._window)
        menu.addAction(self._actions["object.rename"])
        classes = menu.addMenu(icons.icon("class"), tr("Class"))
        present = project.objects[object_id].class_id
        for known in project.classes.values():
            action = classes.addAction(_swatch(known.color), known.name)
            action.setCheckable(True)
            action.setChecked(known.class_id == present)
            action.triggered.connect(lambda _=False, chosen=known.class_id: self.set_class(chosen))
        if project.classes:
            none = classes.addAction(tr("No class"))
            none.triggered.connect(lambda: self.set_class(None))
            classes.addSeparator()
        classes.addAction(icons.icon("add"), tr("New class…")).triggered.connect(lambda: self.new_class())
        label = project.classes.get(present) if present is not None else None
        if label is not None:
            classes.addSeparator()
            classes.addAction(icons.icon("edit"), tr("Rename “{0}”…").format(label.name)).triggered.connect(
                lambda: self.rename_class(label.class_id)
            )
            classes.addAction(icons.icon("remove"), tr("Delete “{0}”").format(label.name)).triggered.connect(
                lambda: self.do(lambda p: edits.remove_class(p, label.class_id))
            )
        menu.addAction(icons.icon("color"), tr("Colour…")).triggered.connect(
            lambda: self.choose_color(object_id)
        )
        menu.addSeparator()
        for action_id in ("object.visible", "object.lock"):
            menu.addAction(self._actions[action_id])
        front = menu.addAction(tr("Bring to the front"))
        front.setEnabled(next(iter(project.objects)) != object_id)
        front.triggered.connect(lambda: self.do(lambda p: edits.move_object(p, object_id, 0)))
        menu.addSeparator()
        others = [t for t in project.objects.values() if t.object_id != object_id]
        if others:
            merge = menu.addMenu(icons.icon("merge"), tr("Merge with"))
            for track in others:
                merge.addAction(_swatch(track.color), f"{track.object_id}  {track.name}").triggered.connect(
                    lambda _=False, other=track.object_id: self.merge(object_id, other)
                )
        split = menu.addAction(tr("New object from this frame on"))
        split.setToolTip(tr("For a track that jumped to something else"))
        split.triggered.connect(lambda: self.split(object_id))
        menu.addSeparator()
        for action_id in ("edit.clear", "edit.clear_tracked", "object.remove"):
            menu.addAction(self._actions[action_id])
        return menu


def _swatch(color: str) -> QIcon:
    picture = QPixmap(32, 32)
    picture.fill(QColor(0, 0, 0, 0))
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QColor(0, 0, 0, 0))
    painter.setBrush(QColor(theme.display_color(color)))
    painter.drawRoundedRect(4, 4, 24, 24, 6, 6)
    painter.end()
    return QIcon(picture)

"""The list of objects: colour, name, class, eye, lock; rename in place, several selected for tracking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QRect,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QMouseEvent, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.ui import icons, theme
from app.ui.i18n import tr
from app.ui.shortcuts import ActionRegistry
from app.ui.theme import GRID

Index = QModelIndex | QPersistentModelIndex
ROW_HEIGHT = 36
ICON = 16


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """What one row shows."""

    object_id: int
    name: str
    class_name: str
    color: str
    visible: bool
    locked: bool
    on_frame: bool
    """The object has a mask on the shown frame."""


class Part(Enum):
    """What of a row lies under the pointer."""

    ROW = 0
    COLOR = 1
    VISIBLE = 2
    LOCK = 3


ROW_ROLE = Qt.ItemDataRole.UserRole


class ObjectModel(QAbstractListModel):
    """Rows for the view; renaming is passed on, never done here."""

    renamed = Signal(int, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[ObjectRow] = []

    def set_rows(self, rows: Sequence[ObjectRow]) -> None:
        """Show these rows; the selection survives unless objects come or go."""
        same = [r.object_id for r in rows] == [r.object_id for r in self.rows]
        if same:
            for position, row in enumerate(rows):
                if row != self.rows[position]:
                    self.rows[position] = row
                    index = self.index(position)
                    self.dataChanged.emit(index, index)
            return
        self.beginResetModel()
        self.rows = list(rows)
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        """Number of objects."""
        return 0 if parent.isValid() else len(self.rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """The row, its name, or what a screen reader says."""
        if not index.isValid():
            return None
        row = self.rows[index.row()]
        if role == ROW_ROLE:
            return row
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return row.name
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{row.object_id} {row.name} {row.class_name}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return tr("{0}: double-click to rename, right-click for more").format(row.name)
        return None

    def setData(self, index: Index, value: object, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Ask for another name."""
        row = self.rows[index.row()]
        if role == Qt.ItemDataRole.EditRole and str(value).strip() not in ("", row.name):
            self.renamed.emit(row.object_id, str(value).strip())
        return True

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Rows are selectable and editable."""
        return (
            Qt.ItemFlag.ItemIsEnabled
            | Qt.ItemFlag.ItemIsSelectable
            | Qt.ItemFlag.ItemIsEditable
            | Qt.ItemFlag.ItemNeverHasChildren
        )


class ObjectDelegate(QStyledItemDelegate):
    """Paints a row and says what of it was clicked."""

    part_clicked = Signal(int, object)
    """Object id, `Part`."""

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        """All rows are equally high."""
        return QSize(160, ROW_HEIGHT)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Colour, number and name, class, eye and lock."""
        row: ObjectRow = index.data(ROW_ROLE)
        colors = theme.current()
        rect: QRect = option.rect
        state: QStyle.StateFlag = option.state
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        selected = bool(state & QStyle.StateFlag.State_Selected)
        hovered = bool(state & QStyle.StateFlag.State_MouseOver)
        if selected or hovered:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colors.accent_soft if selected else colors.raised))
            painter.drawRoundedRect(rect.adjusted(2, 1, -2, -1), 6, 6)
        places = _places(rect)
        painter.setPen(Qt.PenStyle.NoPen)
        swatch = QColor(theme.display_color(row.color))
        if not row.visible:
            swatch.setAlphaF(0.35)
        painter.setBrush(swatch)
        painter.drawRoundedRect(places[Part.COLOR], 4, 4)
        text = places[Part.ROW]
        painter.setPen(QColor(colors.text if row.visible else colors.text_disabled))
        metrics = painter.fontMetrics()
        chip_width = 0
        if row.class_name:
            chip = metrics.elidedText(row.class_name, Qt.TextElideMode.ElideRight, 84)
            chip_width = metrics.horizontalAdvance(chip) + 2 * 6
        name = metrics.elidedText(
            f"{row.object_id}  {row.name}", Qt.TextElideMode.ElideRight, text.width() - chip_width - 8
        )
        painter.drawText(text, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, name)
        if row.class_name:
            area = QRect(text.right() - chip_width, rect.center().y() - 9, chip_width, 19)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colors.pressed if selected else colors.raised))
            painter.drawRoundedRect(area, 9, 9)
            painter.setPen(QColor(colors.text_muted))
            painter.drawText(area, Qt.AlignmentFlag.AlignCenter, chip)
        if hovered or selected or not row.visible:
            name = "visible" if row.visible else "hidden"
            icons.icon(name, "text_muted").paint(painter, places[Part.VISIBLE])
        if hovered or selected or row.locked:
            name = "locked" if row.locked else "unlocked"
            icons.icon(name, "accent" if row.locked else "text_muted").paint(painter, places[Part.LOCK])
        painter.restore()

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: Index) -> QWidget:
        """A plain line."""
        editor = QLineEdit(parent)
        editor.setMaxLength(100)
        return editor

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: Index) -> None:
        """Over the name only."""
        rect: QRect = option.rect
        editor.setGeometry(_places(rect)[Part.ROW].adjusted(0, 3, 0, -3))

    def editorEvent(self, event: QEvent, model: object, option: QStyleOptionViewItem, index: Index) -> bool:
        """Clicks on the colour, the eye and the lock."""
        rect: QRect = option.rect
        if isinstance(event, QMouseEvent) and event.button() == Qt.MouseButton.LeftButton:
            part = _part_at(rect, event.position().toPoint())
            if part is not Part.ROW:
                if event.type() == QEvent.Type.MouseButtonRelease:
                    row: ObjectRow = index.data(ROW_ROLE)
                    self.part_clicked.emit(row.object_id, part)
                return True
        return False


def _places(rect: QRect) -> dict[Part, QRect]:
    middle = rect.center().y() + 1
    side = 14
    color = QRect(rect.left() + GRID + 2, middle - side // 2, side, side)
    lock = QRect(rect.right() - GRID - ICON, middle - ICON // 2, ICON, ICON)
    eye = lock.translated(-ICON - GRID, 0)
    text = QRect(
        color.right() + GRID + 2, rect.top(), eye.left() - color.right() - 2 * GRID - 2, rect.height()
    )
    return {Part.COLOR: color, Part.VISIBLE: eye, Part.LOCK: lock, Part.ROW: text}


def _part_at(rect: QRect, point: QPoint) -> Part:
    for part, place in _places(rect).items():
        if part is not Part.ROW and place.adjusted(-4, -8, 4, 8).contains(point):
            return part
    return Part.ROW


class _List(QListView):
    """Clicks on a row's buttons neither select nor start a drag."""

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Leave the selection alone when a button of the row is pressed."""
        index = self.indexAt(event.position().toPoint())
        if index.isValid():
            part = _part_at(self.visualRect(index), event.position().toPoint())
            if part is not Part.ROW and event.button() == Qt.MouseButton.LeftButton:
                self._pressed = index
                event.accept()
                return
        super().mousePressEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Pass a button's click to the delegate."""
        index = self.indexAt(event.position().toPoint())
        if index.isValid() and event.button() == Qt.MouseButton.LeftButton:
            option = QStyleOptionViewItem()
            self.initViewItemOption(option)
            option.rect = self.visualRect(index)
            if self.itemDelegate().editorEvent(event, self.model(), option, index):
                return
        super().mouseReleaseEvent(event)


class ObjectsPanel(QWidget):
    """Heading with the add button, list, and a line that teaches while the list is empty."""

    selected = Signal(list, object)
    """Ids of the selected objects, the active one."""
    renamed = Signal(int, str)
    part_clicked = Signal(int, object)
    menu_requested = Signal(QPoint, int)
    """Global position, object id."""

    def __init__(self, actions: ActionRegistry, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(GRID // 2, GRID, GRID // 2, 0)
        layout.setSpacing(GRID // 2)
        heading = QHBoxLayout()
        heading.setContentsMargins(GRID, 0, GRID // 2, 0)
        title = QLabel(tr("Objects"))
        title.setProperty("heading", True)
        heading.addWidget(title)
        heading.addStretch(1)
        add = QToolButton()
        add.setDefaultAction(actions["object.finish"])
        add.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        heading.addWidget(add)
        layout.addLayout(heading)
        self.hint = QLabel(tr("Nothing yet. Click something in the picture, or drag a box around it."))
        self.hint.setProperty("muted", True)
        self.hint.setWordWrap(True)
        self.hint.setContentsMargins(GRID, 0, GRID, GRID)
        layout.addWidget(self.hint, 0, Qt.AlignmentFlag.AlignTop)
        self.model = ObjectModel(self)
        self.view = _List()
        self.view.setModel(self.model)
        self.delegate = ObjectDelegate(self.view)
        self.view.setItemDelegate(self.delegate)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.view.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.view.setMouseTracking(True)
        self.view.setUniformItemSizes(True)
        self.view.setFrameShape(QListView.Shape.NoFrame)
        self.view.setStyleSheet("background: transparent")
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.customContextMenuRequested.connect(self._ask_menu)
        self.view.setAccessibleName(tr("Objects"))
        layout.addWidget(self.view, 1)
        layout.addStretch(0)
        self.model.renamed.connect(self.renamed)
        self.delegate.part_clicked.connect(self.part_clicked)
        self.view.selectionModel().selectionChanged.connect(self._tell_selection)
        self._quiet = False

    def set_rows(self, rows: Sequence[ObjectRow]) -> None:
        """Show these objects."""
        self._quiet = True
        self.model.set_rows(rows)
        self._quiet = False
        self.hint.setVisible(not rows)
        self.view.setVisible(bool(rows))

    def set_selection(self, object_ids: Sequence[int], active: int | None) -> None:
        """Show a selection made elsewhere."""
        self._quiet = True
        model = self.view.selectionModel()
        model.clearSelection()
        for position, row in enumerate(self.model.rows):
            if row.object_id in object_ids:
                model.select(self.model.index(position), QItemSelectionModel.SelectionFlag.Select)
            if row.object_id == active:
                model.setCurrentIndex(self.model.index(position), QItemSelectionModel.SelectionFlag.NoUpdate)
        self._quiet = False
        self.view.viewport().update()

    def edit_name(self, object_id: int) -> None:
        """Start renaming in place."""
        for position, row in enumerate(self.model.rows):
            if row.object_id == object_id:
                self.view.setFocus()
                self.view.edit(self.model.index(position))

    def _tell_selection(self) -> None:
        if self._quiet:
            return
        model = self.view.selectionModel()
        ids = [self.model.rows[i.row()].object_id for i in model.selectedIndexes()]
        current = model.currentIndex()
        active = self.model.rows[current.row()].object_id if current.isValid() else None
        self.selected.emit(ids, active)

    def _ask_menu(self, place: QPoint) -> None:
        index = self.view.indexAt(place)
        if index.isValid():
            where = self.view.viewport().mapToGlobal(place)
            self.menu_requested.emit(where, self.model.rows[index.row()].object_id)

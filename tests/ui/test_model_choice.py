"""Which model works: setting, project, the one before; and the menu that switches it."""

from __future__ import annotations

import shutil

import pytest
from fake_tracking import write_clip
from PySide6.QtWidgets import QWidget

from app.engine.records import ModelPhase, ModelState
from app.project.project import Project
from app.project.video_link import describe_video
from app.ui.document import Document
from app.ui.model_choice import ModelChoice
from app.ui.model_menu import build_model_menu
from app.ui.models import precision_phrase
from app.ui.status_bar import StatusBar
from qcore.models.registry import models_dir
from qcore.video import open_source
from resources import resource_path


@pytest.fixture
def mine() -> str:
    """A second model besides the embedded ones: a copy of one of them."""
    models_dir().mkdir(parents=True)
    shutil.copyfile(resource_path("models/embedded-fp16.safetensors"), models_dir() / "mine.safetensors")
    return "mine"


@pytest.fixture
def make_project(tmp_path):
    count = iter(range(9))

    def make() -> Project:
        clip = write_clip(tmp_path / f"c{next(count)}.mp4", frames=3)
        path = clip.with_suffix(".qmsproj")
        with open_source(clip) as source:
            return Project.create(path, describe_video(source, path))

    return make


@pytest.fixture
def choice(qtbot, settings):
    document = Document()
    found = ModelChoice(settings, document)
    found.document = document
    found.loaded = []
    found.changed.connect(found.loaded.append)
    yield found
    document.close()


def test_the_setting_decides_and_the_one_before_comes_back(choice, settings, mine):
    assert choice.current == "embedded" and choice.previous == ""
    choice.choose(mine)
    assert settings.value("tracking.model") == mine and choice.previous == "embedded"
    choice.back()
    choice.back()
    assert choice.loaded == [mine, "embedded", mine] and choice.current == mine
    settings.set("tracking.model", "embedded-fp16")  # by the settings dialog
    assert choice.loaded[-1] == "embedded-fp16" and choice.previous == mine


def test_a_project_keeps_its_own_model_and_the_others_follow_the_setting(
    choice, settings, mine, make_project
):
    own, other = make_project(), make_project()
    paths = own.path, other.path
    choice.document.set_project(own)
    choice.choose(mine, for_project=True)
    assert (choice.current, settings.value("tracking.model")) == (mine, "embedded")
    choice.choose("embedded-fp16")  # this project has its own: that is what changes
    assert (choice.project_model, settings.value("tracking.model")) == ("embedded-fp16", "embedded")
    choice.choose(mine)
    choice.document.set_project(other)
    assert choice.current == "embedded"
    choice.document.set_project(Project.open(paths[0]))
    assert choice.current == mine
    choice.back()  # as before the project had a model of its own
    assert (choice.current, choice.project_model) == ("embedded", "")
    assert choice.loaded == [mine, "embedded-fp16", mine, "embedded", mine, "embedded"]


def test_a_model_that_is_gone_is_said_and_replaced(choice, mine, make_project):
    project = make_project()
    path = project.path
    choice.document.set_project(project)
    choice.choose(mine, for_project=True)
    choice.document.close()
    (models_dir() / "mine.safetensors").unlink()
    notices = []
    choice.noticed.connect(notices.append)
    choice.document.set_project(Project.open(path))
    assert choice.current == "embedded" and "“mine” is not installed here" in notices[0]
    assert choice.project_model == mine  # it works again once it is back
    assert choice.previous == ""


def test_the_menu_switches_model_project_and_device(qtbot, choice, settings, mine, make_project):
    window = QWidget()
    qtbot.addWidget(window)
    choice.document.set_project(make_project())
    state = ModelState(ModelPhase.READY, "embedded", devices=("cpu",))

    def action(name):
        menu = build_model_menu(window, choice, settings, state, True)
        return next(a for a in menu.actions() if a.objectName() == name), menu

    assert action("model:embedded")[0].isChecked()
    action("model:mine")[0].trigger()
    assert choice.current == mine and choice.project_model == ""
    action("own")[0].trigger()
    assert choice.project_model == mine
    back, menu = action("back")
    assert back.text() == "Back to embedded"
    devices = next(a.menu() for a in menu.actions() if a.menu() is not None)
    assert [a.text() for a in devices.actions()] == ["Fastest available", "CPU"]
    devices.actions()[1].trigger()
    assert settings.value("tracking.device") == "cpu"
    action("own")[0].trigger()
    assert choice.project_model == "" and choice.current == mine


def test_the_status_bar_says_model_bits_device_and_back_end(qtbot):
    bar = StatusBar()
    qtbot.addWidget(bar)
    bar.set_model(
        ModelState(
            ModelPhase.READY, "mine", "mine", "CPU", "w6a6", back_end="bf16, 2 threads",
            kernels=(("memory_attention",), ("trunk: no kernels for X",)),
        )
    )  # fmt: skip
    assert bar.model.text() == "mine · W6A6" and bar.device.text() == "CPU · bf16, 2 threads"
    assert bar.device.toolTip() == "Own kernels: memory_attention\nPyTorch: trunk: no kernels for X"
    bar.set_model(ModelState(ModelPhase.LOADING, "mine", "mine"))
    assert bar.model.text() == "Loading mine…" and bar.device.text() == ""
    assert [precision_phrase(p) for p in ("w4a8", "auto", "fp16")] == ["W4A8", "mixed bits", "fp16"]

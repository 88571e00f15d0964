"""Opening and writing a project file when something is wrong: one sentence, and nothing lost or changed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.project import Change, Project, ProjectError, edits, schema
from app.project import project as project_module
from app.project.model import Provenance, VideoInfo
from app.project.propagation import PropagationPass
from app.project.state import MaskCache
from qcore import masks
from qcore.masks import Rle
from qcore.tracking.types import MaskResult


def blob(seed: int) -> Rle:
    return masks.encode(np.random.default_rng(seed).random((12, 16)) < 0.4)


def results(object_id: int, frames: range) -> list[MaskResult]:
    return [MaskResult(frame, object_id, blob(frame), 0.9, 0.9) for frame in frames]


@pytest.fixture
def closed(project: Project) -> Path:
    """A healthy closed project with one object and masks on ten frames."""
    project.apply(edits.add_object(project, "dog"))
    project.apply(edits.store_results(project, results(1, range(10))))
    project.close()
    return project.path


def refused(path: Path, match: str) -> None:
    """Opening gives one sentence and leaves folder and file as they were."""
    before = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
    with pytest.raises(ProjectError, match=match) as caught:
        Project.open(path)
    message = str(caught.value)
    assert message.endswith(".") and message.count(". ") == 0 and "\n" not in message
    assert {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("content", [b"", b"hello", b"x" * 5000, b"SQLite format 3\0" + b"\0" * 84])
def test_a_file_that_is_no_project_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.qmsproj"
    path.write_bytes(content)
    refused(path, "is not a project")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone.qmsproj", "There is no project")
    (tmp_path / "folder.qmsproj").mkdir()
    refused(tmp_path / "folder.qmsproj", "directory")


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.qmsproj"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE masks (a)")
    connection.commit()
    connection.close()
    refused(path, "is not a project")


def test_a_newer_project_is_refused(closed: Path) -> None:
    connection = sqlite3.connect(closed)
    connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    refused(closed, "newer version")


def test_a_truncated_project_is_refused(closed: Path) -> None:
    content = closed.read_bytes()
    closed.write_bytes(content[: len(content) // 2])
    refused(closed, "damaged")


@pytest.mark.parametrize("seed", range(8))
def test_a_project_with_overwritten_pages_opens_whole_or_is_refused(closed: Path, seed: int) -> None:
    content = bytearray(closed.read_bytes())
    rng = np.random.default_rng(seed)
    start = int(rng.integers(100, len(content) - 600))
    content[start : start + 500] = rng.bytes(500)
    closed.write_bytes(content)
    try:
        with Project.open(closed) as project:
            for frame in range(10):
                mask = project.mask(frame, 1)
                assert mask is None or masks.decode(mask.rle).shape == (12, 16)
    except ProjectError as error:
        assert "damaged" in str(error)


NO_POINTS = """'{"points":[],"labels":[],"box":null}'"""
NAN_POINT = """'{"points":[[NaN,1]],"labels":[1],"box":null}'"""
HOSTILE: dict[str, str] = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON masks BEGIN DELETE FROM masks; END",
    "a view in place of a table": "ALTER TABLE classes RENAME TO c; CREATE VIEW classes AS SELECT * FROM c",
    "another table": "CREATE TABLE extra (a)",
    "no video": "DELETE FROM video",
    "an endless video": "UPDATE video SET frame_count = 1000000000000",
    "a huge frame": "UPDATE video SET width = 1000000, height = 1000000",
    "a text as width": "UPDATE video SET width = 'wide'",
    "too few timestamps": "UPDATE video SET timestamps = x'0000'",
    "a mask beyond the end": "UPDATE masks SET frame = 99 WHERE frame = 3",
    "a mask without object": "UPDATE masks SET object_id = 7 WHERE frame = 3",
    "a negative frame": "UPDATE masks SET frame = -1 WHERE frame = 3",
    "an unknown source": "UPDATE masks SET source = 77 WHERE frame = 3",
    "an impossible score": "UPDATE masks SET score = 9e9 WHERE frame = 3",
    "a bad colour": "UPDATE objects SET color = 'url(x)'",
    "a prompt without object": f"INSERT INTO prompts VALUES (9, 0, {NO_POINTS}, NULL)",
    "a prompt of words": "INSERT INTO prompts VALUES (1, 0, 'hello', NULL)",
    "a prompt out of reach": f"INSERT INTO prompts VALUES (1, 0, {NAN_POINT}, NULL)",
    "a prompt with a broken mask": f"INSERT INTO prompts VALUES (1, 0, {NO_POINTS}, x'41')",
    "objects beyond all memory": """UPDATE video SET frame_count = 5000000;
        WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
        INSERT INTO objects SELECT i, 'o', NULL, '#000000', 1, 0, 0 FROM n""",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_project_with_impossible_content_is_refused(closed: Path, what: str) -> None:
    connection = sqlite3.connect(closed)
    connection.executescript(HOSTILE[what])
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    refused(closed, "damaged")


def test_a_broken_mask_is_a_sentence_when_it_is_needed_and_only_then(closed: Path) -> None:
    connection = sqlite3.connect(closed)
    connection.execute("UPDATE masks SET counts = x'3030303030' WHERE frame = 3")
    connection.commit()
    connection.close()
    with Project.open(closed) as project:
        assert project.mask(2, 1) is not None
        with pytest.raises(ProjectError, match=r"A mask in “clip.qmsproj” is damaged\."):
            project.mask(3, 1)
        with pytest.raises(ProjectError, match="damaged"):
            list(project.iter_masks())


def test_a_second_opening_gets_a_sentence_and_the_first_goes_on(project: Project) -> None:
    with pytest.raises(ProjectError, match="already open"):
        Project.open(project.path)
    with pytest.raises(ProjectError, match="already open"):
        Project.open(project.path, read_only=True)
    project.apply(edits.add_object(project))
    project.close()
    with Project.open(project.path) as again:
        assert list(again.objects) == [1]


def test_creating_over_an_existing_project_is_refused(closed: Path, video: VideoInfo) -> None:
    before = closed.read_bytes()
    with pytest.raises(ProjectError, match="exists already"):
        Project.create(closed, video)
    assert closed.read_bytes() == before


def test_a_project_opened_for_reading_cannot_be_changed(closed: Path) -> None:
    before = closed.read_bytes()
    with Project.open(closed, read_only=True) as project:
        assert len(project.annotated_frames()) == 10
        with pytest.raises(ProjectError, match="reading only"):
            project.apply(edits.add_object(project))
        with pytest.raises(ProjectError, match="reading only"):
            project.set_meta("a", "b")
    assert closed.read_bytes() == before


def test_reading_works_where_nothing_can_be_written(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_may_write", lambda path: False)
    with Project.open(closed, read_only=True) as project:
        assert len(project.annotated_frames()) == 10
    assert [p.name for p in closed.parent.iterdir() if p.suffix not in (".mp4", ".qmsproj")] == []


def test_a_folder_that_cannot_be_written_is_a_sentence(unwritable_folder: Path, video: VideoInfo) -> None:
    with pytest.raises(ProjectError, match="cannot be written"):
        Project.create(unwritable_folder / "a.qmsproj", video)


def test_a_path_that_leads_through_a_file_is_a_sentence(tmp_path: Path, video: VideoInfo) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ProjectError, match=r"cannot be (used|written)"):
        Project.create(tmp_path / "file" / "a.qmsproj", video)


def test_work_in_the_write_ahead_log_is_recovered(project: Project, tmp_path: Path) -> None:
    project.apply(edits.add_object(project, "dog"))
    project.apply(edits.store_results(project, results(1, range(5))))
    crashed = tmp_path / "crashed.qmsproj"
    shutil.copy(project.path, crashed)
    shutil.copy(f"{project.path}-wal", f"{crashed}-wal")
    with Project.open(crashed) as recovered:
        assert recovered.frames_with_mask(1).tolist() == [0, 1, 2, 3, 4]


# -- the disk refuses ----------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(project: Project) -> Callable[[], None]:
    """A function after which the file of ``project`` cannot grow."""

    def fill() -> None:
        connection = project._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    return fill


def test_a_full_disk_undoes_the_edit_in_memory_too(project: Project, full_disk: Callable[[], None]) -> None:
    project.apply(edits.add_object(project, "dog"))
    project.apply(edits.store_results(project, results(1, range(3))))
    heard: list[Change] = []
    project.subscribe(heard.append)
    kept = [project.mask(f, 1) for f in range(40)]
    full_disk()
    noise = np.random.default_rng(0).random((12, 16)) < 0.5
    with pytest.raises(ProjectError, match="is full, so the last change was undone"):
        for frame in range(3, 40):
            many = [MaskResult(frame, 1, masks.encode(noise), 1.0, 1.0)] * 1
            project.apply(edits.store_results(project, many))
            kept[frame] = project.mask(frame, 1)
    assert [project.mask(f, 1) for f in range(40)] == kept
    assert len(heard) == sum(m is not None for m in kept) - 3
    project.close()
    with Project.open(project.path) as again:
        assert [again.mask(f, 1) for f in range(40)] == kept


def test_a_full_disk_during_propagation_takes_the_unsaved_batch_back(
    project: Project, full_disk: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_module, "BATCH_SECONDS", 1e6)
    project.apply(edits.add_object(project, "dog"))
    run = PropagationPass(project)
    run.store(results(1, range(2)))
    project.flush()
    seen = {0, 1}

    def listen(change: Change) -> None:
        for edit in change.edits:
            (seen.add if edit.after is not None else seen.discard)(edit.key.frame_index)

    project.subscribe(listen)
    full_disk()
    with pytest.raises(ProjectError, match="is full"):
        for frame in range(2, 40):
            run.store(results(1, range(frame, frame + 1)))
    assert project.frames_with_mask(1).tolist() == [0, 1]
    assert seen == {0, 1}
    assert project.mask(5, 1) is None

    project._connection.execute("PRAGMA max_page_count = 100000")
    run.store(results(1, range(2, 20)))
    project.apply(run.finish().inverted())
    assert project.frames_with_mask(1).size == 0


def test_a_batch_that_fails_in_the_background_is_told_at_the_next_call(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.apply(edits.add_object(project, "dog"))
    monkeypatch.setattr(project_module, "BATCH_SECONDS", 0.01)
    failed = threading.Event()

    def fail() -> tuple[Change, ProjectError | None]:
        outcome = project._roll_back(), ProjectError("The disk is full.")
        failed.set()
        return outcome

    heard: list[Change] = []
    with monkeypatch.context() as patch:
        patch.setattr(project, "_commit_pending", fail)
        project.subscribe(heard.append)
        project.apply(edits.store_results(project, results(1, range(3))), durable=False)
        assert failed.wait(30)
        with project._lock:
            pass
    assert project.frames_with_mask(1).size == 0
    with pytest.raises(ProjectError, match="full"):
        project.flush()
    assert [change.title for change in heard] == ["Track", "Could not be saved"]
    project.flush()


def test_waiting_results_reach_the_disk_by_themselves(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_module, "BATCH_SECONDS", 0.01)
    project.apply(edits.add_object(project, "dog"))
    project.apply(edits.store_results(project, results(1, range(3))), durable=False)
    timer = project._timer
    if timer is not None:
        timer.join(30)
    assert not project._connection.in_transaction


@pytest.mark.skipif(os.name != "posix", reason="limits of the file size are a POSIX matter")
def test_a_disk_that_stops_taking_bytes_is_a_sentence(project: Project) -> None:
    import resource

    project.apply(edits.add_object(project, "dog"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = Path(f"{project.path}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size, hard))
    try:
        with pytest.raises(ProjectError, match=r"clip\.qmsproj.*undone"):
            project.apply(edits.store_results(project, results(1, range(40))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert project.frames_with_mask(1).size == 0
    project.apply(edits.store_results(project, results(1, range(40))))
    project.close()
    with Project.open(project.path) as again:
        assert len(again.frames_with_mask(1)) == 40


# -- versions, settings, cache -------------------------------------------------------------------------------


def test_migrations_run_in_order_and_leave_no_half_way(closed: Path) -> None:
    def add(name: str) -> schema.Migration:
        def migration(connection: sqlite3.Connection) -> None:
            connection.execute(f"CREATE TABLE {name} (a)")

        return migration

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE c (a)")
        raise OSError(errno.ENOSPC, "No space left on device")

    def tables() -> set[str]:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE name IN ('a', 'b', 'c')")
        return {name for (name,) in rows}

    connection = sqlite3.connect(closed, isolation_level=None)
    schema.migrate(connection, 1, 3, {1: add("a"), 2: add("b")})
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert tables() == {"a", "b"}
    with pytest.raises(OSError, match="No space"):
        schema.migrate(connection, 3, 4, {3: broken})
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    assert tables() == {"a", "b"}
    connection.close()


def test_an_error_that_ended_the_migration_itself_is_the_one_that_is_told(closed: Path) -> None:
    def rolled_back(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise OSError(errno.ENOSPC, "No space left on device")

    connection = sqlite3.connect(closed, isolation_level=None)
    with pytest.raises(OSError, match="No space"):
        schema.migrate(connection, 1, 2, {1: rolled_back})
    connection.close()


def test_every_older_version_has_a_migration() -> None:
    assert set(schema.MIGRATIONS) == set(range(1, schema.SCHEMA_VERSION))


def test_settings_and_provenance_survive_reopening(project: Project) -> None:
    first = Provenance("embedded", "fp16", None, "1.0")
    second = Provenance("clip.safetensors", "w6a6", 0.94, "1.0")
    for run in (first, second, first):
        project.record_provenance(run)
    project.set_meta("frame", "12")
    project.close()
    with Project.open(project.path) as again:
        assert again.provenance == (second, first)
        assert again.meta("frame") == "12"


def test_damaged_provenance_is_no_provenance(project: Project) -> None:
    project.set_meta("provenance", json.dumps([{"evil": 1}]))
    assert project.provenance == ()


def test_timestamps_survive_reopening(tmp_path: Path, video: VideoInfo) -> None:
    times = np.cumsum(np.random.default_rng(0).random(40))
    with Project.create(tmp_path / "t.qmsproj", video, times) as project:
        assert np.array_equal(project.timestamps_s, times)
    with Project.open(tmp_path / "t.qmsproj") as project:
        assert np.array_equal(project.timestamps_s, times)


def test_the_cache_of_masks_is_bounded_and_masks_beyond_it_are_read_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project._state, "cache", MaskCache(5_000))
    project.apply(edits.add_object(project))
    project.apply(edits.store_results(project, results(1, range(40))))
    for frame in (*range(40), *reversed(range(40))):
        mask = project.mask(frame, 1)
        assert mask is not None and mask.rle == blob(frame)
        assert project._state.cache.size_bytes <= 5_000


def test_a_closed_project_refuses_work_with_a_sentence(project: Project) -> None:
    project.apply(edits.add_object(project))
    change = edits.set_mask(project, 0, 1, blob(0))
    project.close()
    project.close()
    with pytest.raises(ProjectError, match="is closed"):
        project.apply(change)


def test_threads_may_read_while_another_writes(project: Project) -> None:
    project.apply(edits.add_object(project))
    wrong: list[object] = []
    done = threading.Event()

    def read() -> Iterator[None]:
        while not done.is_set():
            for frame in range(40):
                mask = project.mask(frame, 1)
                if mask is not None and mask.rle != blob(frame):
                    wrong.append(mask)
            yield

    def run() -> None:
        try:
            for _ in read():
                pass
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for frame in range(40):
        project.apply(edits.store_results(project, results(1, range(frame, frame + 1))), durable=False)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []

"""What training shares through an object store, where the nodes of a cluster have no folder together.

Every node works in a folder of its own. A checkpoint's files are uploaded by whoever wrote them, its manifest last; a
node that goes on fetches the newest one that is whole, and the logs that decide what comes next.
"""

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from starloom import storage
from starloom.kinds import Model
from train_jobs.checkpoints.complete import MANIFEST, complete
from train_jobs.job import SKIPPED, Job

LOGS = "logs"
LOCK = ".fetching"  # one process of a node fetches for all


def last_step(job: Job) -> int:
    """The step of the newest complete checkpoint, wherever the run keeps them; 0 where there is none."""
    return max(_steps(job.published) if job.published else complete(Path(job.output) / Model.CHECKPOINTS), default=0)


def _steps(url: str) -> list[int]:
    """The steps of the complete checkpoints of a run."""
    base = storage.join(url, Model.CHECKPOINTS)
    names = (name for name in storage.folders(base) if storage.exists(storage.join(base, name, MANIFEST)))
    return sorted(int(name.removeprefix("step-")) for name in names)


class Published:
    """One process's part in it."""

    def __init__(self, job: Job) -> None:
        self._url, self._local = job.published, Path(job.output)

    def fetch(self) -> None:
        """Make this node's folder what the run has come to: the newest checkpoint that is whole, and no later one."""
        steps = _steps(self._url)
        newest = steps[-1] if steps else None
        with self._alone():
            for step, manifest in complete(self._local / Model.CHECKPOINTS).items():
                if newest is None or step > newest:
                    manifest.unlink()
            for name in (SKIPPED, Model.METRICS):
                self._fetch_log(name)
            here = complete(self._local / Model.CHECKPOINTS)
            for step in steps:
                name = f"{Model.CHECKPOINTS}/step-{step}"
                if step not in here and step == newest:
                    self._fetch_checkpoint(name)
                elif step not in here:  # by these it is decided what is kept; their tensors stay where they are
                    content = storage.read_bytes(storage.join(self._url, name, MANIFEST))
                    (self._local / name).mkdir(parents=True, exist_ok=True)
                    (self._local / name / MANIFEST).write_bytes(content)

    def _fetch_checkpoint(self, name: str) -> None:
        url, folder = storage.join(self._url, name), self._local / name
        shutil.rmtree(folder, ignore_errors=True)
        scratch = folder.with_name(f".{folder.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        storage.download(url, scratch)
        scratch.rename(folder)  # whole, or not there

    def _fetch_log(self, name: str) -> None:
        """A log that only grows: the longer one is the later one."""
        url, path = storage.join(self._url, name), self._local / name
        if storage.exists(url):
            content = storage.read_bytes(url)
            if not path.exists() or path.stat().st_size < len(content):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._local.mkdir(parents=True, exist_ok=True)
        with open(self._local / LOCK, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def share(self, folder: Path, stem: str) -> None:
        """Upload a process's file of a checkpoint, and that it is whole."""
        for name in (f"{stem}.safetensors", f"{stem}.sha256"):
            storage.upload(folder / name, self._at(folder, name))

    def gather(self, folder: Path, stems: Sequence[str]) -> None:
        """Fetch what other nodes have told of their files of a checkpoint."""
        for stem in stems:
            name = f"{stem}.sha256"
            if not (folder / name).exists() and storage.exists(url := self._at(folder, name)):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(storage.read_bytes(url))

    def complete(self, folder: Path) -> None:
        """Make a checkpoint of the store whole, after all that is told of it; what is not kept here goes there too."""
        self.logs()
        storage.upload(folder / MANIFEST, self._at(folder, MANIFEST))
        base = storage.join(self._url, Model.CHECKPOINTS)
        kept = {f"step-{step}" for step in complete(self._local / Model.CHECKPOINTS)}
        for name in storage.folders(base):
            old = storage.join(base, name)
            if name not in kept:
                storage.remove_file(storage.join(old, MANIFEST))  # first: what is half removed is no checkpoint
                storage.remove_below(old)
                continue
            for file in storage.sizes_below(old):  # of this one, or of one whose process was killed just then
                if file.endswith(".sha256"):
                    storage.remove_file(storage.join(old, file))

    def forget_before(self, step: int) -> None:
        """On a node that completes no checkpoint: remove its parts of older ones."""
        for folder in (self._local / Model.CHECKPOINTS).glob("step-*"):
            if int(folder.name.removeprefix("step-")) < step:
                shutil.rmtree(folder, ignore_errors=True)

    def logs(self) -> None:
        """Upload the logs as they are now."""
        for name in (SKIPPED, Model.METRICS, LOGS):
            if (self._local / name).exists():
                storage.upload(self._local / name, storage.join(self._url, name))

    def model(self) -> None:
        """Upload the exported model, and the logs to the end."""
        storage.upload(self._local / Model.FOLDER, storage.join(self._url, Model.FOLDER))
        self.logs()

    def _at(self, folder: Path, name: str) -> str:
        return storage.join(self._url, folder.relative_to(self._local).as_posix(), name)

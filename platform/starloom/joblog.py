"""A job's log without Ray's own chatter."""

import re

_CHATTER = re.compile(
    "Runtime env is setting up.|Running entrypoint for job |deepspeed_shm_comm_op built successfully"
    "|Progress bars disabled. To enable"
    "|Task ServeController.graceful_shutdown failed"  # Ray retries what `serve.shutdown` has ended on purpose
    r"|^\s+\[(state-dump|\d{4}-\d\d-\d\d )|^\s+\(2\) raylet"  # the last lines of a lost node's own log
)
_ACTOR = re.compile(r"^\x1b\[\d+m\([^)]* pid=[^)]*\)\x1b\[0m ")
_RAYLET = re.compile(r"^\x1b\[\d+m\(raylet\)\x1b\[0m (?P<said>.*?)(?:\. (?=[A-Z]).*|: \(1\).*)?$")
_NODE_LOST = re.compile(r"Raylet is terminated|has been marked dead")
_RAY_LOG = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+\tINFO |INFO \d{4}-\d\d-\d\d [\d:,]+ ")
_PROGRESS = re.compile(r"logging_progress.py:\d+ -- (?P<stage>\w.*): (?P<done>\d+)/(?P<all>\d+)$")
LONGEST_OF_RAYLET = 160


class LogPrinter:
    """Prints a job's log, a `prefix` before each line, without Ray's own chatter: of Ray Data how far a stage is."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.last: list[str] = []
        self._seen = 0  # characters
        self._rest = ""
        self._shown: str | None = None

    def add(self, text: str) -> None:
        """Print the lines that `text`, the next piece of the log, completes."""
        self._seen += len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._print(line)

    def finish(self, log: str) -> None:
        """Print what is not yet printed of the whole log."""
        self.add(log[self._seen :] + "\n")

    def _print(self, line: str) -> None:
        line = _ACTOR.sub("", line)
        self.last = [*self.last[-50:], line]
        if _CHATTER.search(line) or line.startswith(("✓", "error: ")) or not line.strip():
            return
        progress, raylet = _PROGRESS.search(line), _RAYLET.match(line)
        if raylet:
            line = raylet["said"][:LONGEST_OF_RAYLET]
            if _NODE_LOST.search(line):
                line = "a node of the cluster was lost; what ran there runs again"
            if line == self._shown:
                return
            self._shown = line
        elif progress:
            if progress["done"] == "0" or progress.group() == self._shown:
                return
            self._shown = progress.group()
            line = f"{progress['stage']} {progress['done']}/{progress['all']}"
        elif _RAY_LOG.match(line):
            return
        print(f"  {self._prefix}{line}", flush=True)

"""`metrics-pipeline produce` as a process of its own, for whoever watches or harms the pipeline meanwhile."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metrics_pipeline.errors import StopError
from metrics_pipeline.lab.loadgen.plan import LoadPlan

_STOP_SECONDS = 180


class LoadError(StopError):
    """It is unknown what was sent, so nothing can be judged."""


class LoadProcess:
    """Sends what the plan says; what was acknowledged is listed in `sent`. Its stderr goes to `log`."""

    def __init__(
        self, plan: LoadPlan, log: Path, sent: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        options = {**asdict(plan), "sent": sent}
        options["duration"] = options.pop("duration_seconds")
        words = [w for name, value in options.items() if value is not None for w in (f"--{name}", str(value))]
        # Not a pipe: nobody reads while it runs, and an outage of the broker is worth many lines.
        with log.open("wb") as file:
            # A session of its own: Ctrl-C is for us, who end the producer first and everything else in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "metrics_pipeline", "produce", "--json", *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End it in good order; what it sent is acknowledged then."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def finish(self) -> dict[str, Any]:
        """Wait for its end; returns its summary. Raises LoadError unless every message was acknowledged."""
        try:
            output, _ = self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LoadError(
                f"the producer did not end in {_STOP_SECONDS} s and was killed: look at {self._log}"
            ) from None
        if self._process.returncode:
            said = self._log.read_text(errors="replace").strip()[-1_000:]
            raise LoadError(f"the producer failed; the end of {self._log}:\n{said}")
        summary: dict[str, Any] = json.loads(output)
        return summary

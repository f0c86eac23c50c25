"""Where the local engines live on this machine, and at which addresses they run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def home_folder(home: Path | None) -> Path:
    """The folder of the local engines: as set, else in the checkout, else in the user's state folder."""
    if home is not None:
        return home.expanduser().absolute()
    checkout = Path(__file__).parents[2]
    if (checkout / "workspace.yaml").is_file():
        return checkout / ".local"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "metrics-pipeline"


def state_file(home: Path | None) -> Path:
    """Where `up` notes what runs and at which addresses."""
    return home_folder(home) / "state.json"


def running_addresses(home: Path | None) -> Mapping[str, str]:
    """By engine; empty where nothing was started."""
    try:
        found = json.loads(state_file(home).read_text())["addresses"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: address for name, address in found.items() if address}

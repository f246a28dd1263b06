"""Where and how results were made."""

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

GIT_SECONDS = 5.0


def provenance(command: Sequence[str], seed: int) -> dict[str, Any]:
    """Return where and how results were made, for their JSON."""
    return {
        "extmeta": metadata.version("extmeta"),
        "commit": commit(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "thp": os.environ.get("EXTMETA_THP") != "0",
        "seed": seed,
        "command": list(command),
        "date": today(),
    }


def today() -> str:
    """Return the date and time as they are stored."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def cpu_model(path: str = "/proc/cpuinfo") -> str:
    """Return the processor's model name, or ""."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def commit(root: Path = Path(__file__).parents[3]) -> str:
    """Return the git commit of the checkout this runs from, "+" if modified, or ""."""
    # An installed package may lie in another project's checkout.
    if not (root / ".git").exists() or not (root / "src" / "extmeta").is_dir():
        return ""
    try:
        found = subprocess.run(
            [
                *("git", "-C", str(root), "describe"),
                *("--always", "--abbrev=12", "--exclude=*", "--dirty=+"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""

"""Which version of the user's own files a run used: what git says of their folder, where there is git and a repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

from accel.report import Source

_SOUND_S = 10.0


def source_version(folder: Path) -> Source | None:
    """Commit of the repository that holds ``folder``, and whether anything in ``folder`` differs from it.

    None outside a repository, before its first commit, where git is absent, refuses or does not answer within 10 s, and where
    it ignores the folder: then the commit says nothing about it.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit or _git(folder, "check-ignore", "--quiet", ".") is not None:
        return None
    changed = _git(folder, "status", "--porcelain", "--", ".")
    return None if changed is None else Source(commit=commit, dirty=bool(changed))


def _git(folder: Path, *arguments: str) -> str | None:
    """What it prints; None where it fails. It takes no lock, asks nothing and starts no file system monitor."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SOUND_S, check=False)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None

"""Learning: policies, their training and their execution. Knows episode files and robots, never the simulator.

from act import agent_from, load_policy
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from act.agent import agent_from as agent_from
    from act.checkpoint import load_policy as load_policy

_EXPORTS = {"agent_from": "act.agent", "load_policy": "act.checkpoint"}


def __getattr__(name: str) -> object:
    """Imports torch at the first use, so that command lines without it stay fast."""
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""`python -m edge_client.share.agent`: what AgentProcess starts. Not for people: it speaks frames on stdin and stdout."""

from __future__ import annotations

import sys

from edge_client.share.agent.child import run

if __name__ == "__main__":
    sys.exit(run())

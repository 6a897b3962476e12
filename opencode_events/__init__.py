"""A daemon that owns the event stream of opencode: capped subscribers, a watchdog, and a log to resume from.

The version stands here, and only here; the parts and who may import whom are in `tests/test_architecture.py`.
"""

__version__ = "0.1.0"

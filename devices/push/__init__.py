"""push@1.0: delivers what a process sends (devices/04-push-cron).

``outgoing`` turns an entry of an outbox into the message that its target gets; ``device`` schedules
what came in, computes, delivers, and does the same for whom it delivered to.
"""

from .device import Push

__all__ = ["Push"]

"""scheduler@1.0: one total order of messages for each process (devices/02-scheduler).

``targets`` says which process a message means and who schedules it; ``message`` what may be scheduled;
``assignment`` builds and links assignments; ``formats`` writes schedules; ``audit`` checks them;
``remote`` speaks to other schedulers; ``device`` has the keys.
"""

from .device import Scheduler

__all__ = ["Scheduler"]

"""Whether an adapter is being loaded beside the steps: what they take then says nothing of them.

Owns a flag of this process. The worker sets it; the scheduler looks at it where both are in one process, as they are on CPUs.
"""

import threading

under_way = threading.Event()

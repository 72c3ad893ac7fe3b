"""Finding the child processes that a test is about, among those of other tests and those that have just ended."""

import psutil


def running(word: str, parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Returns the live children of a process (default: this one) that have `word` in their command line.

    One that has ended counts as gone, though its parent has not asked for its status yet: such a zombie has no command line.
    """
    found = []
    for child in (parent or psutil.Process()).children():
        try:
            if any(word in part for part in child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found

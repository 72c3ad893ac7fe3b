"""Everything on one machine: the home folder's layout and the two services as supervised subprocesses."""

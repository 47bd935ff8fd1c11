"""What stands behind `make run` and `make demo`: an embedded Postgres and a supervisor around our processes.

binaries      which PostgreSQL is here: the wheel's, else the system's
account       under which account the server runs, and which folders that account can enter
cluster       the embedded cluster: create, run, stop, clean up after a crash
leftovers     processes of an earlier run that was killed
programs      the command of each process and the supervisor's configuration
launch        start it all, wait until it is ready, stop it all
demo          `make demo`: a clone asked for over STOMP

Only `python -m msgweb.launcher` and the tests import it. Nothing here needs Django: what must be done in the database
is done by `manage.py prepare` in a process of its own.
"""

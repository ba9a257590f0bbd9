"""Locust's side: users that know an overflow, the page in the web UI, and what joins both to the desk. Only locustfiles import it.

The law: importing locust patches the process, so nothing here imports the engine, and whatever needs it runs in the desk (``loadgen.desk``).
"""

"""The commands that measure a model in this process, without a server: `triptych profile`, `bench --offline`.

`profile.py` and `offline.py` are the commands; what they need is imported when they run.
"""

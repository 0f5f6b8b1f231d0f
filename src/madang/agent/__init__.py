"""The agent of a node: reads its sensors and its kernel's log, and pushes a frame an interval.

A family: one file a reader (`_base.Reader`): nvml, kernel_log, infiniband, machine, members, dcgm.
Then what happens to a reading: `gather` asks all readers in time, `buffer` keeps frames on disk
until the daemon has them, `push` brings them there, `loop` puts it together.
"""

"""What leaves the yard for other monitoring systems, and what is asked of them.

`exposition` writes `/metrics`; `writer` sends samples on by remote write through a disk queue
(`spool`); `promql` asks a remote store for history. An operator who configures none of them pays
nothing for them.
"""

"""The load tool: measures a running daemon through its public HTTP interface, like any stranger.

    readers      forked processes of raw epoll readers; every subscriber is checked for loss, order and duplicates
    publishers   raw sockets that post events: one by one, in arrays, as a stream, or at a pace
    procfs       what the daemon's process cost meanwhile, from /proc
    scenarios    which of these run together, and what is computed from them
    report       the tables and the JSON document

Below them, without a socket: `payload` (what is posted), `trail` (what is read), `sequence` (was it right), `sample`
(latencies), `answers` (responses to a POST). The figure that everything serves is deliveries per second of the
daemon's CPU time: unlike wall-clock rates it stays the same when the readers share the machine.
"""

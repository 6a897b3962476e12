"""The load tool: measures a running daemon through its public HTTP interface, like any stranger.

    scenarios, scaling   which subscribers meet which publisher, and the figures made of it
    publish              what an acknowledgement costs, and how long it is waited for
    replay, storm        the log read back, and what those who are live notice of it; `history` fills it
    measure              one measurement: warm up, drain, read the clocks, publish, drain, read the clocks
    crowd, readers       forked processes of raw epoll readers; every subscriber is checked for itself
    publishers           raw sockets that post events: one by one, in arrays, as a stream, or at a pace
    closedloop           any number of them that wait for each acknowledgement
    meter, procfs        what the daemon's process and this tool cost meanwhile
    report               the tables and the JSON document

Below them, without a socket: `payload` (what is posted), `answers` (what it is answered), `trail` (what is read),
`sequence` (was it right), `sample` (latencies), `rows` (figures). The figure that everything serves is deliveries
per second of the daemon's CPU time: unlike wall-clock rates it stays the same when the readers share the machine.
"""

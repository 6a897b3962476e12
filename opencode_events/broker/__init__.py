"""The broker: the one place where stored and sent meet (`broker`).

Who wants what is in `selection`, `feed` and `feeds`; who they are in `subscriber`, `lifecycle` and `connection`; what
each, and all together, may cost in `backlog` and `budget`; who shares a commit in `committer`, when bytes leave in
`flusher`. Knows neither HTTP nor SQLite.
"""

"""The broker: who wants what (`selection`, `feed`), what each may cost (`backlog`, `budget`), who they are
(`subscriber`, `lifecycle`), when bytes leave (`flusher`), and the one place where stored and sent meet (`broker`).

Knows neither HTTP nor SQLite.
"""

"""The watchdog: which connections are dead or stalled, and their end. Sees connections only as `watched` has them."""

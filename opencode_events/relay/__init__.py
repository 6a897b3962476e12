"""In front of a real opencode server: takes its events in, and passes every other request on to it."""

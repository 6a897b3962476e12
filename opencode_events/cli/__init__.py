"""The commands that a person types. The ones that talk to a daemon use its public HTTP interface, like any stranger."""

"""`top`: a live view of a daemon and of every handle. What is seen is `view`'s, how it is drawn `screen`'s."""

"""What can be seen of the system from outside: facts read from journal, state and logs, and what is made of them."""

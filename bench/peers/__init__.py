"""What people do today, each a script of its own."""

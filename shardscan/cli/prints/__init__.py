"""The command line, its words: what a command tells a person, as Arrow tables and sentences."""

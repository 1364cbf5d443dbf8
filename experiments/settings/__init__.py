"""Settings from config files and command lines: reading them, checking them, saying what is wrong."""

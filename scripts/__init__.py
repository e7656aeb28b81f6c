"""What a person runs. Each script is thin: it parses, calls the rooms below and prints."""

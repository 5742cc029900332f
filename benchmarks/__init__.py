"""What measures dpf_tf beside its peers; each program writes a JSON file."""

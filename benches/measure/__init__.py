"""Code of the measuring commands: processes, sign-ins, load, results, reports."""

"""What the measuring commands share: processes, sign-ins, load, figures, reports."""

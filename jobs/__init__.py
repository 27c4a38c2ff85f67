"""What server and worker both know of a job: its queue, its record, its messages. Imports no torch."""
